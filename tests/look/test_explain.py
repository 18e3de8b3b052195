"""Every number of a run, derived again from the numbers before it: the shown terms and steps are the arithmetic."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from pathlib import Path

import pytest
import torch

import cutaway
from cutaway.errors import Misuse
from cutaway.families import describe
from cutaway.look import ModelCard, Record, run
from cutaway.look.explain import Explanation, kind_of, name_of
from cutaway.look.explain.numbers import At
from cutaway.look.explain.work import Work
from cutaway.look.names import names
from cutaway.model import spec
from cutaway.model.block import ACTIVATIONS
from cutaway.model.quantized import quantize
from tests.families.variants import VARIANTS
from tests.model import machines
from tests.model.machines import LAYER, RMS, attention, decoder

LENGTH = 11
RELATIVE = spec.RelativeBias(8, 20, False)
YARN = spec.Rope(500.0, 16, spec.YarnScaling(4.0, 16, attention_factor=1.1))
POSITIONS = spec.Positions("learned", 64, 2)
#: What no family says yet and a spec can: an offset table, a norm on the embedding, scaled and biased logits ...
MORE = {
    "relative": decoder(
        *[spec.Block(attention(rope=None), machines.GATED, RMS)] * 2,
        stack=spec.Stack(48, (spec.Block(attention(rope=None), machines.GATED, RMS),) * 2, RMS, RELATIVE),
    ),
    "embedding norm": decoder(
        *[machines.GPT2] * 2, stem=spec.Tokens(97, 48, positions=POSITIONS, norm=LAYER),
        head=spec.Head(97, bias=True, scale=0.3, softcap=5.0),
    ),
    "yarn": decoder(*[spec.Block(attention(rope=YARN, qk_norm="full"), machines.GATED, LAYER, ("pre", "post"))] * 2),
    "both ways": decoder(*[spec.Block(attention(causal=False, window=3), machines.GATED, RMS)] * 2),
}  # fmt: skip
#: A masked model, and what its stack is with other heads: of a classifier, with a layer before it and without; none.
#: And a decoder that tells classes apart.
ENCODERS = {
    "masked words": machines.BERT,
    "classes": dataclasses.replace(machines.BERT, head=spec.Head(5, bias=True, transform=("tanh", None), pool="first")),
    "plain classes": dataclasses.replace(machines.BERT, head=spec.Head(5, pool="first")),
    "classes of a decoder": dataclasses.replace(machines.DECODERS["llama"], head=spec.Head(5, pool="last")),
    "no head": dataclasses.replace(machines.BERT, head=None),
}
#: Of images: with the class token alone, and with that of distillation beside it.
IMAGES = {
    "image": machines.VIT,
    "distilled": dataclasses.replace(
        machines.VIT, stem=spec.Patches(48, image=32, patch=8, extra_tokens=2), context=18,
        head=spec.Head(11, bias=True, pool="first_two"),
    ),
}  # fmt: skip
#: Two stacks: T5 gated and not; Marian; BART with a norm behind its embeddings, and both of its vocabularies; Whisper.
_BOTH = attention(rope=None, kv_heads=4, bias="qkvo")
_LOOK = dataclasses.replace(_BOTH, causal=False)
_STREAM = spec.Block(_LOOK, machines.PLAIN, LAYER, ("stream",))
_MARIAN = spec.Seq2Seq(
    spec.Tokens(97, 48, scale=48**0.5, positions=spec.Positions("sinusoid", 64)),
    spec.Stack(48, (_STREAM,) * 2, None),
    spec.Tokens(97, 48, scale=48**0.5, positions=spec.Positions("sinusoid", 64)),
    spec.Stack(48, (dataclasses.replace(_STREAM, attn=_BOTH, cross=_LOOK),) * 3, None),
    spec.Head(97, tied=True, bias=True), 64, shared_embedding=True,
)  # fmt: skip
_LEARNED = spec.Tokens(97, 48, positions=POSITIONS, norm=LAYER)
_RELU = spec.MLP(80, "relu")


def plain(stack: spec.Stack) -> spec.Stack:
    return dataclasses.replace(stack, blocks=tuple(dataclasses.replace(block, mlp=_RELU) for block in stack.blocks))


TWO_STACKS = {
    "t5": machines.T5,
    "t5, not gated, untied": dataclasses.replace(
        machines.T5, encoder=plain(machines.T5.encoder), decoder=plain(machines.T5.decoder), head=spec.Head(97),
        shared_embedding=False,
    ),
    "marian": _MARIAN,
    "bart, two vocabularies": dataclasses.replace(
        _MARIAN, source=dataclasses.replace(_LEARNED, vocabulary=120), target=_LEARNED, shared_embedding=False
    ),
    "whisper": machines.WHISPER,
}  # fmt: skip
MACHINES = machines.DECODERS | MORE | ENCODERS | IMAGES | TWO_STACKS


def ran(machine: spec.Spec, **how: object) -> Record:
    if isinstance(machine, spec.Seq2Seq):
        return rewritten(machine, **how)
    if isinstance(machine.stem, spec.Patches):
        return seen(machine)
    ids = machines.tokens(1, LENGTH)
    model = machines.lively(machine)
    return run(model, [ids], ModelCard("tiny"), tokens=ids[0].tolist(), **how)  # type: ignore[arg-type]


def rewritten(machine: spec.Seq2Seq, **how: object) -> Record:
    ids = machines.tokens(1, 7) % machine.target.vocabulary
    source = machines.tokens(1, LENGTH, seed=2) % (machine.vocabulary or 1)
    told = {"tokens": ids[0].tolist(), "source": source[0].tolist()}
    if isinstance(stem := machine.source, spec.Mel):
        source = torch.randn(1, stem.bins, 2 * stem.length, generator=torch.Generator().manual_seed(1))
        told["source"] = []
    return run(machines.lively(machine), [source, ids], ModelCard("tiny"), **told, **how)  # type: ignore[arg-type]


def seen(machine: spec.Transformer) -> Record:
    levels = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    settings = {"image": {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]}}
    mean, std = (torch.tensor(settings["image"][name])[:, None, None] for name in ("mean", "std"))
    model = machines.lively(machine)
    return run(model, [(levels / 255 - mean) / std], ModelCard("tiny"), tokens=[], settings=settings)


def cells(record: Record, name: str, chance: random.Random, count: int = 2) -> list[str]:
    """The first, the last and a few other cells of a tensor."""
    shape = record[name].shape
    places = [[0] * len(shape), [size - 1 for size in shape]]
    places += [[chance.randrange(size) for size in shape] for _ in range(count)]
    return [f"{name}[{','.join(map(str, place))}]" for place in places]


def explainable(record: Record) -> list[str]:
    beside = ("logits.last", "river", "encoder.river", "decoder.river")
    return [*names(record.spec), *(name for name in beside if name in record)]


def again(found: Explanation) -> float:
    """The total once more, from the numbers shown and nothing else."""
    subtracted = 0.0
    steps = list(found.steps)
    if steps[0].op == "subtract":
        subtracted = steps.pop(0).by or 0.0
    values = []
    for term in found.terms:
        numbers = [factor.value for factor in term.factors]
        made = {
            "product": math.prod,
            "value": lambda x: x[0],
            "square": lambda x, less=subtracted: (x[0] - less) ** 2,
            "exp": lambda x, less=subtracted: math.exp(x[0] - less),
        }[found.term](numbers)
        assert math.isclose(made, term.value, rel_tol=1e-12)
        values.append(made)
    x = 0.0
    for step in steps:
        by = 0.0 if step.by is None else step.by
        x = {
            "sum": lambda x, by: sum(values),
            "mean": lambda x, by: sum(values) / by,
            "copy": lambda x, by: values[0],
            "lookup": lambda x, by: values[0],
            "masked": lambda x, by: 0.0,
            "add": lambda x, by: x + by,
            "scale": lambda x, by: x * by,
            "multiply": lambda x, by: x * by,
            "root": lambda x, by: x**0.5,
            "divide": lambda x, by: by / x,
            "softcap": lambda x, by: by * math.tanh(x / by),
            "activation": lambda x, by, step=step: float(ACTIVATIONS[step.label](torch.tensor(x, dtype=torch.double))),
        }[step.op](x, by)
        assert math.isclose(x, step.value, rel_tol=1e-9, abs_tol=1e-12), step
    return x


def size(found: Explanation) -> float:
    """The scale of the numbers that were added up."""
    return max(1.0, sum(abs(term.value) for term in found.terms))


def mistake(record: Record, found: Explanation) -> str:
    """What is wrong with an explanation; nothing when all is well."""
    if not abs(found.difference) <= 1e-5 * size(found):
        return f"{found.cell} is off by {found.difference}"
    if found.steps[-1].value != found.total or not math.isclose(again(found), found.total, rel_tol=1e-9, abs_tol=1e-12):
        return f"{found.cell}: the steps do not lead to the total"
    if found.difference != found.total - found.value:
        return f"{found.cell}: the difference is another"
    shown = [(factor.cell, factor.value) for term in found.terms for factor in term.factors]
    shown += [(step.cell, step.by) for step in found.steps if step.cell is not None and step.op in ("add", "multiply")]
    for cell, value in [*shown[:: len(shown) // 12 + 1], *shown[-2:], (found.cell, found.value)]:
        # A product of one row and of all rows may differ in its last bit; a frequency is named to six digits.
        if not math.isclose(stands := number(record, cell), value, rel_tol=1e-5, abs_tol=1e-5):
            return f"{cell} is {stands}, not {value}"
    return ""


def number(record: Record, cell: str) -> float:
    """What really stands in a cell; of a wave, what its name says it is."""
    inside = re.fullmatch(r"([^\[]+)\[(.*)\]", cell)
    if cell.startswith("level["):
        channel, how = int(cell[6]), record.settings["image"]
        value = float(record["image"][tuple(map(int, cell[6:-1].split(",")))])
        return (value * how["std"][channel] + how["mean"][channel]) / how["scale"]
    if inside is None:
        wave = re.fullmatch(r"(-?)(?:([\d.]+)·)?(sin|cos)\((\d+) × ([\d.e-]+)\)", cell)
        assert wave is not None, cell
        sign, stretch, function, position, frequency = wave.groups()
        angle = int(position) * float(frequency)
        return (-1 if sign else 1) * float(stretch or 1) * (math.sin if function == "sin" else math.cos)(angle)
    name = inside[1]
    tensor = record.weights[name.removeprefix("weights.")] if name.startswith("weights.") else _once(record, name)
    return float(tensor[tuple(map(int, inside[2].split(",")))])


def _once(record: Record, name: str) -> torch.Tensor:
    known: dict[str, torch.Tensor] = record.__dict__.setdefault("read_before", {})
    if name not in known:
        known[name] = record[name]
    return known[name]


def check(record: Record) -> None:
    chance = random.Random(0)
    for name in explainable(record):
        for cell in cells(record, name, chance):
            found = record.explain(cell)
            assert (found.cell, found.rule) == (cell, kind_of(name))
            assert not mistake(record, found)


@pytest.mark.parametrize("name", MACHINES)
def test_every_number_is_derived_from_those_before_it(name: str) -> None:
    check(ran(MACHINES[name]))


@pytest.mark.parametrize(("name", "bits"), [("t5, not gated, untied", 8), ("marian", 4), ("whisper", 8),
                                            ("masked words", 4), ("distilled", 8)])  # fmt: skip
def test_so_is_every_number_of_a_quantised_machine(name: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what its matrices mean, in every kind of stem, attention and head."""
    lively = machines.lively

    def quantised(machine: spec.Spec) -> object:
        model = lively(machine)
        quantize(model, bits)
        return model

    monkeypatch.setattr(machines, "lively", quantised)
    check(ran(MACHINES[name]))


@pytest.mark.parametrize("name", ["llama", "masked words", "image", *TWO_STACKS])
def test_any_name_is_explained_or_said_to_be_no_number_of_the_model(name: str) -> None:
    record = ran(MACHINES[name])
    for other in set(record.names(views=True)) - set(explainable(record)):
        with pytest.raises(Misuse, match="is not a number the model computes"):
            record.explain(name_of(other, [0] * len(record.axes(other))))


#: Of those whose logits stand at tokens.
WRITING = [name for name, (_, model, _) in VARIANTS.items() if re.search("LM|MT|Conditional", model)]


@pytest.mark.parametrize("variant", WRITING)
def test_of_every_family(variant: str) -> None:
    transformers = pytest.importorskip("transformers", reason="its configurations are not installed")
    config, model, says = VARIANTS[variant]
    check(ran(describe(getattr(transformers, config)(**says, architectures=[model]).to_dict())[1]))


@pytest.mark.parametrize("name", MACHINES)
def test_the_links_lead_from_a_logit_to_weights_and_positions(name: str) -> None:
    record = ran(MACHINES[name])
    chance = random.Random(1)
    for _ in range(10):
        last = "final" if record.spec.head is None else "logits"
        cell, path = f"{last}[{','.join(str(chance.randrange(size)) for size in record.shape(last))}]", []
        while cell.partition("[")[0] in record.names():
            path.append(cell)
            found = record.explain(cell)
            links = [factor.cell for term in found.terms for factor in term.factors]
            links += [step.cell for step in found.steps if step.cell is not None]
            if not links:
                assert found.steps[0].op == "masked"
                break
            cell = chance.choice(links)
        assert len(path) < 24 * sum(len(stack.blocks) for stack in record.spec.stacks) + 10, path
        assert len(set(path)) == len(path)


TAMPERED = {name: ran(MACHINES[name]) for name in ("qwen3", "t5", "whisper")}


STORED = [(machine, name) for machine, record in TAMPERED.items() for name in record.tensors]


@pytest.mark.parametrize(("machine", "name"), STORED)
def test_a_number_that_was_tampered_with_no_longer_adds_up(machine: str, name: str) -> None:
    record = dataclasses.replace(TAMPERED[machine], tensors=dict(TAMPERED[machine].tensors))
    record.tensors[name] = record.tensors[name].clone()
    record.tensors[name][3] += 0.01
    places = {"T": 3, "S": 3, "H": 3, "M": 3, "R": 6}  # and the first along every other axis
    at = {name: [places.get(axis, 0) for axis in record.axes(name)] for name in names(record.spec)}
    found = (record.explain(name_of(name, place)) for name, place in at.items())
    assert any("is off" in mistake(record, explained) for explained in found)


#: What a rule could get wrong about two stacks: a machine, a cell, the tensor that is read, and the one taken for it.
MISTAKEN = [
    ("t5", "decoder.blocks.1.cross.k[3,1,2]", "encoder.final", "encoder.blocks.1.resid_post"),
    ("t5", "decoder.blocks.0.cross.in[3,2]", "decoder.blocks.0.resid_mid", "decoder.blocks.0.resid_pre"),
    ("t5", "decoder.blocks.0.mlp.in[3,2]", "decoder.blocks.0.resid_cross", "decoder.blocks.0.resid_mid"),
    ("t5", "decoder.blocks.0.resid_post[3,2]", "decoder.blocks.0.resid_cross", "decoder.blocks.0.resid_mid"),
    ("t5", "decoder.blocks.0.attn.scores[1,5,2]", "decoder.relative.bias", "encoder.relative.bias"),
    ("t5", "decoder.blocks.0.cross.scores[1,5,2]", "decoder.blocks.0.cross.k_rot", "decoder.blocks.0.attn.k_rot"),
    ("marian", "decoder.blocks.0.resid_cross[3,2]", "decoder.blocks.0.cross.out", "decoder.blocks.0.attn.out"),
    ("marian", "logits[3,2]", "decoder.final", "encoder.final"),
    ("whisper", "encoder.conv1[3,2]", "weights.source.conv1.bias", "weights.source.conv2.bias"),
]


@pytest.mark.parametrize(("machine", "cell", "read", "taken"), MISTAKEN)
def test_a_rule_that_reads_another_tensor_does_not_add_up(
    monkeypatch: pytest.MonkeyPatch, machine: str, cell: str, read: str, taken: str
) -> None:
    record, right = ran(MACHINES[machine]), At.tensor

    def wrong(at: At, name: str, *index: int | None) -> torch.Tensor:
        return right(at, taken if name == read else name, *index)

    assert not mistake(record, record.explain(cell))
    monkeypatch.setattr(At, "tensor", wrong)
    assert "is off" in mistake(record, record.explain(cell))


@pytest.mark.parametrize("machine", TWO_STACKS)
def test_a_wrong_sign_does_not_add_up(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    record, right = ran(MACHINES[machine]), Work.sum

    def wrong(work: Work) -> Work:
        largest = max(work.terms, key=lambda term: abs(term.value))
        return right(work).step("add", work.x - 2 * largest.value, -2 * largest.value)

    monkeypatch.setattr(Work, "sum", wrong)
    for name in explainable(record):
        if not kind_of(name).endswith((".q", ".v", ".z", ".out", ".up", "conv1", "resid_mid", "resid_cross", "logits")):
            continue
        assert "is off" in mistake(record, record.explain(cells(record, name, random.Random(0))[1])), name


def test_a_masked_cell_says_why() -> None:
    record = ran(machines.DECODERS["windows"])
    for cell, reason in (("[1,3,4]", "causal: position 3 reads nothing after it"), ("[1,9,4]", "window: position 9")):
        found = record.explain(f"blocks.0.attn.pattern{cell}")
        assert (found.terms, found.total, found.value, found.difference) == ([], 0.0, 0.0, 0.0)
        (step,) = found.steps
        assert step.op == "masked"
        assert reason in (step.label or "")
    assert len(record.explain("blocks.0.attn.pattern[1,9,5]").terms) == 5
    assert len(record.explain("blocks.1.attn.pattern[1,9,4]").terms) == 10


def test_a_known_number_by_hand() -> None:
    record = ran(machines.DECODERS["gpt2"])
    found = record.explain("blocks.1.attn.scores[2,-1,4]")
    assert found.cell == "blocks.1.attn.scores[2,10,4]"
    assert [factor.cell for factor in found.terms[3].factors] == [
        "blocks.1.attn.q_rot[10,2,3]",
        "blocks.1.attn.k_rot[4,2,3]",
    ]
    assert [(step.op, step.by) for step in found.steps] == [("sum", None), ("scale", 0.25)]
    q, k = record["blocks.1.attn.q"].double(), record["blocks.1.attn.k"].double()
    assert found.total == pytest.approx(float(q[10, 2] @ k[4, 2]) / 4, abs=1e-12)


def test_grouped_queries_share_their_keys() -> None:
    record = ran(machines.DECODERS["llama"])
    heads = [record.explain(f"blocks.0.attn.scores[{head},5,4]").terms[0].factors[1].cell for head in range(4)]
    assert heads == [f"blocks.0.attn.k_rot[4,{shared},0]" for shared in (0, 0, 1, 1)]


def test_an_edited_tensor_is_where_the_derivation_ends() -> None:
    record = ran(machines.DECODERS["llama"], edit={"blocks.1.attn.z": lambda z: z * 0, "blocks.2.resid_pre": torch.neg})
    for name in ("blocks.1.attn.z[3,0,0]", "blocks.2.resid_pre[3,0]"):
        (step,) = record.explain(name).steps
        assert step.label == "put here by an edit of this run"
    edited = [record, ran(machines.DECODERS["phi"], edit={"blocks.0.attn.in": torch.neg, "logits": torch.neg})]
    for kept in edited:  # and everything else follows from it
        for name in explainable(kept):
            assert not mistake(kept, kept.explain(cells(kept, name, random.Random(0))[1]))


def test_it_is_plain_json() -> None:
    record = ran(machines.DECODERS["gpt2"])
    found = record.explain("blocks.0.attn.pattern[0,3,1]")
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(data) == ["cell", "value", "rule", "terms", "term", "steps", "total", "difference"]
    assert list(data["terms"][0]) == ["factors", "value"]
    assert data["terms"][0]["factors"] == [
        {"cell": "blocks.0.attn.scores[0,3,0]", "value": float(record["blocks.0.attn.scores[0,3,0]"])}
    ]
    assert list(data["steps"][0]) == ["op", "by", "cell", "label", "value"]
    assert (data["rule"], data["term"], data["total"]) == ("attn.pattern", "exp", found.total)
    record.tensors["final"][2, 5] = float("inf")
    broken = record.explain("final[2,5]").to_json()
    assert (broken["value"], broken["difference"]) == ("inf", "-inf")


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("blocks.0.attn.scores[1,2]", r"not one number.* H T T"),
        ("blocks.0.attn.scores", "not one number"),
        ("blocks.0.attn.scores[1,2,3:5]", "not one number"),
        ("blocks.0.attn.scores[1,2,11]", "out of range"),
        ("blocks.0.attn.scores[1,2,3", "no index"),
        ("blocks.0.attn.socres[1,2,3]", "socres"),
        ("logits.rest[1]", "not a number the model computes"),
        ("weights.stack.norm.weight[1]", "is a weight"),
    ],
)
def test_what_is_no_cell_is_refused(cell: str, words: str) -> None:
    with pytest.raises(Misuse, match=words):
        ran(machines.DECODERS["gpt2"]).explain(cell)


def test_the_convolutions_of_a_sound_read_the_frames_around() -> None:
    record = ran(machines.WHISPER)
    found = record.explain("encoder.embed[3,5]")
    read = [term.factors[0].cell for term in found.terms]
    assert read[:3] == ["encoder.conv1[0,5]", "encoder.conv1[0,6]", "encoder.conv1[0,7]"]
    assert found.terms[4].factors[1].cell == "weights.source.conv2.weight[5,1,1]"
    assert [step.op for step in found.steps] == ["sum", "add", "activation"]
    assert len(found.terms) == 48 * 3
    assert len(record.explain("encoder.embed[0,5]").terms) == 48 * 2  # nothing was heard before the beginning
    assert [len(record.explain(f"encoder.conv1[5,{r}]").terms) for r in (0, 1, 59)] == [12 * 2, 12 * 3, 12 * 2]
    (step,) = record.explain("encoder.frames[3,2]").steps
    assert step.label == "what the model was given: the log-mel of the sound"


def test_the_tokens_read_must_be_known() -> None:
    record = ran(machines.T5)
    record.source = []
    with pytest.raises(Misuse, match="does not say which tokens were read"):
        record.explain("encoder.embed[0,0]")


def test_a_saved_run_of_two_stacks_explains_what_it_brought_along(tmp_path: Path) -> None:
    for name, stem in (("t5", "source.tokens.weight"), ("whisper", "source.conv?.*")):
        record = ran(MACHINES[name])
        record.save(tmp_path / "run.cutaway", weights=["decoder.blocks.0.cross.*", stem])
        opened = cutaway.open(tmp_path / "run.cutaway")
        for cell in ("decoder.blocks.0.cross.k[1,1,1]", "decoder.blocks.1.cross.in[3,3]", "encoder.embed[2,1]"):
            assert opened.explain(cell) == record.explain(cell)
    record.save(tmp_path / "run.cutaway")
    with pytest.raises(Misuse, match="did not keep") as caught:
        cutaway.open(tmp_path / "run.cutaway").explain("encoder.embed[2,1]")
    assert "conv1" in (caught.value.fix or "")


def test_a_saved_record_explains_what_it_brought_along(tmp_path: Path) -> None:
    record = ran(machines.DECODERS["llama"])
    record.save(tmp_path / "run.cutaway", weights="stack.blocks.0.attn.*")
    opened = cutaway.open(tmp_path / "run.cutaway")
    for cell in ("blocks.0.attn.scores[1,2,1]", "blocks.0.attn.q[1,2,1]", "blocks.1.attn.in[3,3]", "river[2,1]"):
        assert opened.explain(cell) == record.explain(cell)
    with pytest.raises(Misuse, match="did not bring along") as caught:
        opened.explain("blocks.1.attn.q[1,2,1]")
    assert 'weights="stack.blocks.1.attn.q.weight"' in (caught.value.fix or "")


def test_numbers_of_half_precision_are_what_they_are() -> None:
    """bfloat16 keeps eight bits: the difference says so, and is no larger."""
    ids = machines.tokens(1, LENGTH)
    model = machines.lively(machines.DECODERS["llama"]).bfloat16()
    record = run(model, [ids], ModelCard("tiny"), tokens=ids[0].tolist())
    found = record.explain("blocks.1.mlp.out[4,3]")
    assert 0 < abs(found.difference) < 2e-2 * size(found)
