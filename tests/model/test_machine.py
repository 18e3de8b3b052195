"""The machine against itself: caches, windows, padding, cross-attention, and plain arithmetic written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cutaway.model import spec
from cutaway.model.linear import linear, pack
from cutaway.model.transformer import Seq2Seq, Transformer, build
from tests.model import machines

TOLERANCE = 1e-5


@pytest.mark.parametrize("name", machines.DECODERS)
def test_a_cache_changes_nothing(name: str) -> None:
    model = machines.lively(machines.DECODERS[name])
    ids = machines.tokens(2, 23)
    whole = model(ids)
    cache = model.cache(2, 30)
    parts = [model(ids[:, :11], cache=cache)] + [model(ids[:, i : i + 1], cache=cache) for i in range(11, 23)]
    assert machines.largest(model, torch.cat(parts, 1), whole) < TOLERANCE
    assert cache.length == 23


def test_chunks_through_a_sliding_window_change_nothing() -> None:
    model = machines.lively(machines.DECODERS["windows"])
    ids = machines.tokens(1, 23)
    cache = model.cache(1, 30, chunk=4)
    parts = [model(ids[:, :11], cache=cache)] + [model(ids[:, i : i + 4], cache=cache) for i in range(11, 23, 4)]
    assert machines.largest(model, torch.cat(parts, 1), model(ids)) < TOLERANCE
    assert cache.layers[0].slots == 8, "a window of 5 in chunks of 4 needs 8 slots, whatever the length"


def test_a_full_cache_says_so() -> None:
    model = machines.lively(machines.DECODERS["llama"])
    cache = model.cache(1, 4)
    model(machines.tokens(1, 4), cache=cache)
    with pytest.raises(ValueError, match="holds 4 tokens"):
        model(machines.tokens(1, 1), cache=cache)
    with pytest.raises(ValueError, match="at most 1 tokens at a time"):
        roomy = model.cache(1, 9)
        model(machines.tokens(1, 3), cache=roomy)
        model(machines.tokens(1, 2), cache=roomy)


@pytest.mark.parametrize("room", [1, 3, 8, 11])
@pytest.mark.parametrize("name", ["llama", "windows", "original"])
def test_a_cache_that_grows_holds_what_a_whole_one_does(name: str, room: int) -> None:
    model = machines.lively(machines.DECODERS[name])
    ids = machines.tokens(2, 30)
    whole, growing = model.cache(2, 30), model.cache(2, 30, room=room)
    assert max(layer.slots for layer in growing.layers) == room
    for start, end in ((0, 4), *((i, i + 1) for i in range(4, 30))):
        expected = model(ids[:, start:end], cache=whole)
        assert machines.largest(model, model(ids[:, start:end], cache=growing), expected) < TOLERANCE
        if start == 12:
            for cache in (whole, growing):
                cache.reorder(torch.tensor([1, 1]))
    assert growing.room == 30
    assert {layer.slots for layer in growing.layers} == {layer.slots for layer in whole.layers}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 31, 32, 40])
@pytest.mark.parametrize("shape", [(97, 48), (48, 97), (600, 300), (300, 600), (9000, 48)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("intel", [True, False])
def test_a_product_with_so_many_vectors_is_that_product(
    rows: int, shape: tuple[int, int], bias: bool, grad: bool, intel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its ways it takes, whosever the processor is, and whatever the layout of what comes in."""
    monkeypatch.setattr("cutaway.model.linear.intel", lambda: intel)
    weight, x = torch.randn(shape, requires_grad=grad), torch.randn(rows, 1, shape[1])
    more = torch.randn(shape[0]) if bias else None
    with torch.set_grad_enabled(grad):
        for its in (x, x.transpose(0, 1), x[:, 0], torch.randn(rows, shape[1], 2)[..., 0], x[:0]):
            found = linear(its, weight, more)
            assert found.is_contiguous()
            assert found.requires_grad == grad
            torch.testing.assert_close(found, torch.nn.functional.linear(its, weight, more), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(600, 300), (300, 600)], ids=str)
@pytest.mark.parametrize("rows", [1, 4, 40])
def test_a_packed_matrix_is_that_matrix_until_it_changes(rows: int, shape: tuple[int, int]) -> None:
    weight, x, more = torch.nn.Parameter(torch.randn(shape)), torch.randn(rows, 1, shape[1]), torch.randn(shape[0])
    pack([weight], 4)
    for _ in range(2):
        expected = torch.nn.functional.linear(x, weight, more).detach()
        with torch.inference_mode():
            torch.testing.assert_close(linear(x, weight, more), expected, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(linear(x, weight, more), expected, rtol=1e-4, atol=1e-4)
            weight.mul_(2)


def test_what_is_too_large_or_of_another_kind_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    small, half = torch.randn(30, 30), torch.randn(600, 300).bfloat16()
    pack([small], 4)
    pack([half], 4)
    monkeypatch.setattr("cutaway.model.linear.PACKED", 600 * 300)
    large = [torch.randn(600, 300) for _ in range(2)]
    pack(large, 4)
    assert not any(hasattr(weight, "packed") for weight in (small, half, *large))
    pack(large[:1], 4)
    assert hasattr(large[0], "packed")


def test_reordered_rows_continue_as_those_rows() -> None:
    model = machines.lively(machines.DECODERS["windows"])
    ids = machines.tokens(3, 9)
    cache = model.cache(3, 12)
    model(ids[:, :8], cache=cache)
    rows = torch.tensor([2, 0, 0])
    cache.reorder(rows)
    last = model(ids[rows][:, 8:], cache=cache)
    assert machines.largest(model, last, model(ids[rows])[:, 8:]) < TOLERANCE


@pytest.mark.parametrize("name", machines.DECODERS)
def test_the_future_is_hidden(name: str) -> None:
    model = machines.lively(machines.DECODERS[name])
    ids = machines.tokens(1, 12)
    changed = ids.clone()
    changed[0, 8:] = (changed[0, 8:] + 1) % machines.VOCABULARY
    assert torch.equal(model(ids)[:, :8], model(changed)[:, :8])


def test_padding_is_invisible_to_an_encoder() -> None:
    model = machines.lively(machines.BERT)
    ids = machines.tokens(2, 12)
    present = torch.ones(2, 12, dtype=torch.bool)
    present[1, 7:] = False
    padded = model(ids, present=present)[1, :7]
    assert machines.largest(model, padded, model(ids[1:, :7])[0]) < TOLERANCE


@pytest.mark.parametrize("machine", [machines.T5, machines.WHISPER], ids=["t5", "whisper"])
def test_a_decoder_with_cross_attention_caches_too(machine: spec.Seq2Seq) -> None:
    model = machines.lively(machine)
    assert isinstance(model, Seq2Seq)
    source = machines.tokens(2, 19) if machine is machines.T5 else torch.randn(2, 12, 60)
    ids = machines.tokens(2, 10, seed=3)
    memory, cache = model.encode(source), model.cache(2, 12)
    parts = [model.decode(ids[:, :4], memory, cache=cache)]
    parts += [model.decode(ids[:, i : i + 1], memory, cache=cache) for i in range(4, 10)]
    assert machines.largest(model, torch.cat(parts, 1), model(source, ids)) < TOLERANCE


def test_beams_share_the_memory_of_one_source() -> None:
    model = machines.lively(machines.T5)
    assert isinstance(model, Seq2Seq)
    memory, ids = model.encode(machines.tokens(1, 19)), machines.tokens(3, 6, seed=3)
    cache = model.cache(3, 8)
    model.decode(ids[:, :4], memory, cache=cache)
    cache.reorder(torch.tensor([2, 0, 0]))
    assert cache.cross[0].k is not None
    assert len(cache.cross[0].k) == 1
    shared = model.decode(ids[:, 4:5], memory, cache=cache)
    whole = torch.cat([ids[[2, 0, 0], :4], ids[:, 4:5]], 1)
    assert machines.largest(model, shared[:, 0], model.decode(whole, memory.expand(3, -1, -1))[:, -1]) < TOLERANCE


def test_one_block_is_the_formula_written_out() -> None:
    """Llama's block in loops and plain arithmetic, one position, one head and one pair of numbers at a time."""
    model = machines.lively(machines.decoder(machines.LLAMA))
    assert isinstance(model, Transformer)
    weights = {name.removeprefix("stack.blocks.0."): w.double() for name, w in model.state_dict().items()}
    ids = machines.tokens(1, 6)
    stream = [weights["stem.tokens.weight"][i] for i in ids[0]]

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / math.sqrt((x * x).mean().item() + 1e-6) * weight

    def turned(x: Tensor, position: int) -> Tensor:
        out = x.clone()
        for pair in range(8):
            angle = position / 10000 ** (2 * pair / 16)
            a, b = x[pair].item(), x[pair + 8].item()
            out[pair] = a * math.cos(angle) - b * math.sin(angle)
            out[pair + 8] = b * math.cos(angle) + a * math.sin(angle)
        return out

    after = []
    for t, x in enumerate(stream):
        z = []
        for head in range(4):
            query = turned(
                weights["attn.q.weight"][head * 16 : head * 16 + 16] @ norm(x, weights["attn.pre.weight"]), t
            )
            rows = slice(head // 2 * 16, head // 2 * 16 + 16)  # two query heads share one key-value head
            read = [norm(y, weights["attn.pre.weight"]) for y in stream[: t + 1]]
            dots = [query @ turned(weights["attn.k.weight"][rows] @ y, s) * 0.25 for s, y in enumerate(read)]
            shares = torch.stack(dots).exp() / torch.stack(dots).exp().sum()
            z.append(sum(p * (weights["attn.v.weight"][rows] @ y) for p, y in zip(shares, read, strict=True)))
        mid = x + weights["attn.o.weight"] @ torch.cat(z)
        h = norm(mid, weights["mlp.pre.weight"])
        gate = weights["mlp.gate.weight"] @ h
        hidden = gate / (1 + (-gate).exp()) * (weights["mlp.up.weight"] @ h)
        after.append(norm(mid + weights["mlp.down.weight"] @ hidden, weights["stack.norm.weight"]))
    expected = torch.stack(after) @ weights["stem.tokens.weight"].T
    assert machines.largest(model, model(ids)[0].double(), expected) < TOLERANCE


def test_relative_buckets_are_t5s() -> None:
    """Eight buckets either way: 0 to 3 exactly, then logarithmically up to 20."""
    model = build(machines.T5)
    assert isinstance(model, Seq2Seq)
    assert model.decoder.relative is not None
    assert model.encoder.relative is not None
    looking_back = model.decoder.relative.bucket(torch.tensor([3, 0, -1, -3, -4, -8, -19, -500]))
    assert looking_back.tolist() == [0, 0, 1, 3, 4, 5, 7, 7]
    both_ways = model.encoder.relative.bucket(torch.tensor([0, 1, 2, 500, -1, -500]))
    assert both_ways.tolist() == [0, 5, 6, 7, 1, 3]


EVERY = {
    **machines.DECODERS,
    "bert": machines.BERT,
    "vit": machines.VIT,
    "deit": machines.DEIT,
    "t5": machines.T5,
    "whisper": machines.WHISPER,
}


@pytest.mark.parametrize("name", EVERY)
def test_a_spec_counts_its_parameters_and_survives_json(name: str) -> None:
    machine = EVERY[name]
    with torch.device("meta"):
        model = build(machine)
    assert sum(p.numel() for p in model.parameters()) == spec.parameters(machine)
    assert spec.from_json(spec.to_json(machine)) == machine


def test_vision_and_speech_run() -> None:
    for machine in (machines.VIT, machines.DEIT):
        assert machines.lively(machine)(torch.randn(2, 3, 32, 32)).shape == (2, 11)
    assert machines.lively(machines.WHISPER)(torch.randn(2, 12, 60), machines.tokens(2, 5)).shape == (2, 5, 97)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: spec.Norm("batch", 1e-5), "batch"),  # type: ignore[arg-type]
        (lambda: machines.attention(kv_heads=3), "4 heads cannot share 3"),
        (lambda: machines.attention(scale=math.nan), "scale"),
        (lambda: spec.Rope(10000.0, 7), "even"),
        (lambda: machines.attention(rope=spec.Rope(1e4, 32)), "exceeds head width"),
        (lambda: spec.MLP(80, "swish9"), "swish9"),
        (lambda: spec.Block(machines.attention(), machines.PLAIN, machines.RMS, ("beside",)), "slots"),
        (lambda: spec.Patches(48, image=30, patch=8), "30 pixels"),
        (lambda: spec.Head(3, pool="middle"), "middle"),  # type: ignore[arg-type]
        (lambda: spec.from_json({"kind_of": "Perceptron"}), "Perceptron"),
        (lambda: spec.from_json({"kind_of": "Norm", "kind": "rms", "eps": 1e-5, "colour": "red"}), "colour"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(wrong: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        wrong()  # type: ignore[operator]
