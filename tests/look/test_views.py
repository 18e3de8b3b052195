"""Kinds of heads, the lens and the neurons against loops that spell their definitions out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.look import ModelCard, Record, heads, run
from cutaway.look.heads import KINDS
from cutaway.look.lens import lens
from cutaway.model import spec
from tests.look.test_record import ran
from tests.model import machines

DECODERS = list(machines.DECODERS)


def spelt_out(a: torch.Tensor, ids: list[int], visible: torch.Tensor) -> list[float]:
    """The kinds of one head (T, T), by the book."""
    rows: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for t in range(len(ids)):
        row = a[t].tolist()
        if t >= 1:
            rows["previous"].append(row[t - 1])
            rows["first"].append(row[0])
            rows["self"].append(row[t])
        copies = [s for s in range(t) if ids[s] == ids[t]]
        if copies:
            rows["same"].append(sum(row[s] for s in copies))
            rows["induction"].append(sum(row[s + 1] for s in copies))
        if t >= 2:
            rows["local"].append(sum(row[t - n] for n in (2, 3, 4) if t - n >= 0))
        allowed = int(visible[t].sum())
        if allowed > 1:
            rows["broad"].append(-sum(p * math.log(p) for p in row if p > 0) / math.log(allowed))
    return [sum(row) / len(row) if row else 0.0 for row in rows.values()]


def masked(length: int, causal: bool, window: int | None) -> torch.Tensor:
    back = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    visible = back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)
    return visible if window is None else visible & (back.abs() < window)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 14), st.integers(1, 5), st.booleans(), st.none() | st.integers(1, 6), st.integers(0, 99))
def test_the_kinds_are_what_their_definitions_say(
    length: int, vocabulary: int, causal: bool, window: int | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (length,), generator=generator)
    visible = masked(length, causal, window)
    scores = 3 * torch.randn(3, length, length, generator=generator)
    pattern = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    found = heads.kinds(pattern, ids, visible)
    expected = torch.tensor([spelt_out(head, ids.tolist(), visible) for head in pattern])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-5


def reading(reads: list[int]) -> torch.Tensor:
    """A head of which reader t puts all its weight on reads[t]."""
    return torch.eye(len(reads))[reads]


def test_heads_of_one_kind_only_score_one_for_it() -> None:
    ids = torch.tensor([5, 6, 7, 5, 6, 7, 5, 6])
    length, visible = len(ids), masked(len(ids), True, None)
    pure = {
        "previous": reading([max(t - 1, 0) for t in range(length)]),
        "first": reading([0] * length),
        "self": torch.eye(length),
        "same": reading([t - 3 if t >= 3 else t for t in range(length)]),
        "induction": reading([t - 2 if t >= 3 else t for t in range(length)]),
        "local": reading([t - 4 if t >= 4 else max(t - 2, 0) for t in range(length)]),
        "broad": visible / visible.sum(-1, keepdim=True),
    }
    for kind, pattern in pure.items():
        found = dict(zip(KINDS, heads.kinds(pattern, ids, visible).tolist(), strict=True))
        assert found[kind] == pytest.approx(1), kind
        others = {"previous", "first", "self", "same", "induction"} - {kind}
        assert all(found[other] < 0.5 for other in others), (kind, found)


def test_a_head_is_called_by_what_stands_out_against_even_reading() -> None:
    ids, visible = torch.tensor([5, 6, 7, 5, 6, 7, 5, 6]), masked(8, True, None)
    even = heads.even(ids, visible)
    assert even.tolist() == pytest.approx(spelt_out(visible / visible.sum(-1, keepdim=True), ids.tolist(), visible))
    assert even[-1] == pytest.approx(1)
    assert heads.label(even, even) == "broad"
    for kind, share in (("previous", 0.5), ("first", 0.6), ("induction", 0.5), ("same", 1.0)):
        scores = even.clone()
        scores[KINDS.index(kind)] = share
        assert heads.label(scores, even) == kind
    nearly = even + 0.09
    assert heads.label(nearly, even) == "broad"


def test_what_is_not_defined_is_zero() -> None:
    alone = heads.kinds(torch.ones(1, 1, 1), torch.tensor([5]), torch.ones(1, 1, dtype=torch.bool))
    assert alone.tolist() == [[0.0] * len(KINDS)]
    ids, visible = torch.arange(6), masked(6, True, None)
    found = dict(zip(KINDS, heads.kinds(torch.eye(6), ids, visible).tolist(), strict=True))
    assert found["same"] == found["induction"] == found["broad"] == 0


@pytest.mark.parametrize("name", DECODERS)
def test_the_record_hands_over_its_own_patterns(name: str) -> None:
    _, ids, kept = ran(name, length=30)
    for i, block in enumerate(kept.spec.stack.blocks):  # type: ignore[union-attr]
        place = f"blocks.{i}.attn"
        pattern, visible = kept[f"{place}.pattern"], masked(30, block.attn.causal, block.attn.window)
        expected = torch.tensor([spelt_out(head, ids[0].tolist(), visible) for head in pattern])
        torch.testing.assert_close(kept[f"{place}.kinds"], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kept[f"{place}.even"], heads.even(ids[0], visible))
        torch.testing.assert_close(kept[f"{place}.mean"], pattern.mean(0))
        torch.testing.assert_close(kept[f"{place}.max"], pattern.max(0).values)
        assert torch.equal(kept[f"{place}.coarse"], pattern)  # short enough for a bin each


@pytest.mark.parametrize("length", [1, 5, 63, 64, 65, 100, 1000])
def test_the_coarse_pattern_is_the_mean_reader_of_each_bin(length: int) -> None:
    pattern = torch.randn(2, length, length).masked_fill(~masked(length, True, None), -torch.inf).softmax(-1)
    edges = heads.bins(length)
    assert (edges[0], edges[-1], len(edges)) == (0, length, min(length, 64) + 1)
    assert edges == sorted(set(edges))
    found = heads.coarse(pattern)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, len(edges) - 1))
    for a in (0, len(edges) // 2 - 1, len(edges) - 2):
        for b in (0, a):
            cells = pattern[:, edges[a] : edges[a + 1], edges[b] : edges[b + 1]]
            torch.testing.assert_close(found[:, a, b], cells.sum(-1).mean(-1))


@pytest.mark.parametrize("name", [*DECODERS, "bert"])
def test_the_last_stop_of_the_lens_is_the_models_own_distribution(name: str) -> None:
    kept = bert() if name == "bert" else ran(name)[2]
    logits = kept["logits"].double()
    p, ids = logits.softmax(-1).topk(10)
    assert (kept["lens.p"][:, -1] - p).abs().max() < 1e-6
    assert torch.equal(kept["lens.ids"][:, -1].long(), ids)
    assert (kept["lens.final"][:, -1] - p[:, 0]).abs().max() < 1e-6
    assert not kept["lens.rank"][:, -1].any()
    stops = kept["river"].shape[0]
    assert kept["lens.p"].shape == (12, stops, 10)
    assert kept["lens.rank"].shape == (12, stops)


def bert() -> Record:
    from cutaway.look import run
    from tests.look.test_record import CARD

    model = machines.lively(machines.BERT)
    ids = machines.tokens(1, 12)
    return run(model, [ids], CARD, tokens=ids[0].tolist())


@pytest.mark.parametrize("name", DECODERS)
def test_every_stop_of_the_lens_is_that_stream_through_the_models_own_end(name: str) -> None:
    model, _, kept = ran(name)
    layers = len(model.spec.stack.blocks)
    stops = [f"blocks.{i}.{what}" for i in range(layers) for what in ("resid_pre", "resid_mid")]
    norm = model.stack.norm or torch.nn.Identity()
    end = kept["logits"].argmax(-1)
    for s, stop in enumerate(stops):
        logits = model.logits(norm(kept[stop])[None])[0]
        p = logits.double().softmax(-1)
        assert (kept["lens.p"][:, s] - p.topk(10).values).abs().max() < 1e-6
        assert (kept["lens.final"][:, s] - p.gather(-1, end[:, None])[:, 0]).abs().max() < 1e-6
        ahead = (logits > logits.gather(-1, end[:, None])).sum(-1)
        assert torch.equal(kept["lens.rank"][:, s].long(), ahead)


def test_the_lens_of_a_small_vocabulary_has_fewer_to_show() -> None:
    found = lens(torch.randn(3, 5, 4))
    assert found["ids"].shape == (3, 5, 4)
    torch.testing.assert_close(found["p"].sum(-1), torch.ones(3, 5))


@pytest.mark.parametrize("name", [*DECODERS, "scaled"])
def test_a_neuron_promotes_what_its_column_does_to_the_logits(name: str) -> None:
    """Brute force: the slope of the logits when a little of a column is added to the stream before the final norm, with
    that norm's length (and, for a LayerNorm, its centring) as it is without."""
    model, _, kept = ran(name) if name != "scaled" else scaled()
    its, state = model.spec, model.state_dict()
    block = its.stack.blocks[1]
    columns = state["stack.blocks.1.mlp.down.weight"].T.double()
    if "post" in block.slots:
        columns = columns * state["stack.blocks.1.mlp.post.weight"]
    direction = columns.clone()
    if its.stack.final_norm is not None:
        if its.stack.final_norm.kind == "layer":
            direction -= direction.mean(-1, keepdim=True)
        direction = direction * state["stack.norm.weight"]
    rows = state["stem.tokens.weight"] if its.head.tied else state["head.out.weight"]
    slopes = its.head.scale * direction @ rows.double().T
    for way, largest in (("promotes", True), ("demotes", False)):
        values = slopes.topk(10, largest=largest).values
        found = kept[f"blocks.1.mlp.{way}.values"].double()
        torch.testing.assert_close(found, values, rtol=1e-4, atol=1e-4)
        ids = kept[f"blocks.1.mlp.{way}.ids"].long()
        torch.testing.assert_close(slopes.gather(-1, ids), values, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(kept[f"blocks.1.mlp.{way}.values[7]"], kept[f"blocks.1.mlp.{way}.values"][7])
    lengths = torch.stack([column.norm() for column in columns])
    strength = (kept["blocks.1.mlp.hidden"].abs() * lengths).float()
    torch.testing.assert_close(kept["blocks.1.mlp.strength"], strength)


def scaled():
    from cutaway.look import run
    from tests.look.test_record import CARD

    machine = machines.decoder(*[machines.LLAMA] * 2, head=spec.Head(machines.VOCABULARY, tied=True, scale=0.25))
    model, ids = machines.lively(machine), machines.tokens(1, 12)
    return model, ids, run(model, [ids], CARD, tokens=ids[0].tolist())


def test_a_small_push_along_a_column_raises_what_it_promotes() -> None:
    """The same from the other end: the model's own final norm and head, with a little of the column added."""
    model, _, kept = ran("gpt2")
    stream = kept["blocks.2.resid_post"].double()
    model = model.double()
    push = kept["weights.stack.blocks.1.mlp.down.weight.T[7]"].double()
    mean = stream.mean(-1, keepdim=True)
    length = (stream - mean).pow(2).mean(-1, keepdim=True).sqrt()
    push_seen = push - push.mean()
    held = (stream - mean) / length
    logits = model.logits(((held + 1e-3 * push_seen / length) * model.stack.norm.weight + model.stack.norm.bias)[None])
    plain = model.logits((held * model.stack.norm.weight + model.stack.norm.bias)[None])
    slope = ((logits - plain)[0] * length / 1e-3)[-1]
    values, ids = kept["blocks.1.mlp.promotes.values[7]"], kept["blocks.1.mlp.promotes.ids[7]"].long()
    torch.testing.assert_close(slope[ids], values.double(), rtol=1e-3, atol=1e-3)


def test_where_a_direction_has_no_meaning_nothing_is_offered() -> None:
    kept = bert()
    assert "blocks.0.mlp.promotes.ids" not in kept  # a dense layer and an activation stand before its unembedding
    assert "blocks.0.attn.kinds" in kept
    assert "lens.p" in kept


def test_views_are_listed_apart() -> None:
    _, _, kept = ran()
    views = set(kept.names(views=True)) - set(kept.names())
    assert {"lens.p", "blocks.0.attn.kinds", "blocks.2.mlp.promotes.ids", "blocks.1.attn.coarse"} <= views
    assert not any(name.endswith((".pattern", ".hidden", "logits", "river")) for name in views)


@pytest.mark.parametrize("name", ["llama", "image"])
def test_alike_is_the_cosine_between_streams(name: str) -> None:
    kept = image() if name == "image" else ran(name)[2]
    length = kept.length
    for stop, where in enumerate(kept.stops()):
        x = kept[where]
        expected = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
        torch.testing.assert_close(kept["alike"][stop], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kept[f"alike[{stop},2]"], expected[2], rtol=1e-5, atol=1e-5)
    assert kept.shape("alike") == (len(kept.stops()), length, length)


def test_a_picture_has_views_but_no_kinds_of_heads() -> None:
    kept = image()
    assert {"alike", "blocks.0.attn.mean", "blocks.1.mlp.strength"} <= set(kept.names(views=True))
    assert not {"blocks.0.attn.kinds", "lens.p", "blocks.0.mlp.promotes.ids"} & set(kept.names(views=True))
    torch.testing.assert_close(kept["blocks.0.attn.mean"], kept["blocks.0.attn.pattern"].mean(0))


def image() -> Record:
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return run(machines.lively(machines.VIT), [pixels], ModelCard("tiny"), tokens=[])


def two_sides() -> Record:
    from cutaway.look import run
    from tests.look.test_record import CARD

    model = machines.lively(machines.T5)
    source, ids = machines.tokens(1, 14), machines.tokens(1, 9, seed=2)
    return run(model, [source, ids], CARD, tokens=ids[0].tolist(), source=source[0].tolist())


def test_both_sides_of_an_encoder_decoder_have_their_views() -> None:
    kept = two_sides()
    for side, ids, causal in (("encoder", kept.source, False), ("decoder", kept.tokens, True)):
        place, time = f"{side}.blocks.1.attn", len(ids)
        pattern, visible = kept[f"{place}.pattern"], masked(time, causal, None)
        expected = torch.tensor([spelt_out(head, ids, visible) for head in pattern])
        torch.testing.assert_close(kept[f"{place}.kinds"], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kept[f"{place}.mean"], pattern.mean(0))
        assert kept[f"{place}.coarse"].shape == (4, time, time)
        assert kept[f"{side}.blocks.0.mlp.strength"].shape == (time, 80)
    cross = "decoder.blocks.1.cross"
    assert kept.axes(f"{cross}.mean") == ("T", "S")
    torch.testing.assert_close(kept[f"{cross}.mean"], kept[f"{cross}.pattern"].mean(0))  # which word reads which
    torch.testing.assert_close(kept[f"{cross}.max"], kept[f"{cross}.pattern"].max(0).values)
    assert "decoder.blocks.0.mlp.promotes.ids" in kept
    assert "encoder.blocks.0.mlp.promotes.ids" not in kept  # nothing of an encoder goes straight to the logits


def test_each_side_has_its_river() -> None:
    kept = two_sides()
    stops = {"encoder": ("resid_pre", "resid_mid"), "decoder": ("resid_pre", "resid_mid", "resid_cross")}
    for side, at in stops.items():
        streams = [f"{side}.blocks.{i}.{what}" for i in range(2) for what in at] + [f"{side}.blocks.1.resid_post"]
        assert kept.stops(side) == streams
        assert torch.equal(kept[f"{side}.river"], torch.stack([kept[stream].norm(dim=-1) for stream in streams]))
        assert kept[f"{side}.alike"].shape == (len(streams), *[kept[f"{side}.embed"].shape[0]] * 2)
    assert kept.axes("encoder.river") == ("stop", "S")
    assert kept.axes("decoder.river") == ("stop", "T")
    assert "river" not in kept


def test_the_lens_of_a_decoder_stops_at_its_cross_attention_too() -> None:
    kept = two_sides()
    assert kept.stops()[:3] == [f"decoder.blocks.0.{what}" for what in ("resid_pre", "resid_mid", "resid_cross")]
    assert kept["decoder.river"].shape == (7, 9)
    assert kept["lens.p"].shape == (9, 7, 10)
    p, ids = kept["logits"].double().softmax(-1).topk(10)
    assert (kept["lens.p"][:, -1] - p).abs().max() < 1e-6
    assert torch.equal(kept["lens.ids"][:, -1].long(), ids)
