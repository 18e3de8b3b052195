"""``name[3,5:9]``: the cells Python would take, computed alone; and weights by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cutaway
from cutaway.errors import Misuse
from cutaway.look import Record, names, run
from tests.look.test_record import CARD, ran
from tests.model import machines


@pytest.mark.parametrize("machine", [*machines.DECODERS, "t5", "whisper"])
def test_the_shape_is_known_before_anything_is_computed(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = other(machine) if machine in ("t5", "whisper") else ran(machine)[2]
    expected = {name: tuple(kept[name].shape) for name in kept.names(views=True)}
    monkeypatch.setattr(Record, "_derive", lambda *_: pytest.fail("something was computed"))
    assert {name: kept.shape(name) for name in expected} == expected
    assert all(len(kept.axes(name)) == len(shape) for name, shape in expected.items())


def other(machine: str) -> Record:
    model = machines.lively(machines.T5 if machine == "t5" else machines.WHISPER)
    source = machines.tokens(1, 9) if machine == "t5" else torch.randn(1, 12, 60)
    ids = machines.tokens(1, 5)
    read = source[0].tolist() if machine == "t5" else []
    return run(model, [source, ids], CARD, tokens=ids[0].tolist(), source=read)


@pytest.mark.parametrize("machine", [*machines.DECODERS, "t5", "whisper"])
def test_a_part_is_that_part_of_the_whole(machine: str) -> None:
    kept = other(machine) if machine in ("t5", "whisper") else ran(machine)[2]
    for name in kept.names(views=True):
        whole = kept[name]
        for index in ("-1", "0", "1:3", ":", "-2:", ":2,-1", "1,:2", ":,1:,0", "0,1,:2", "-1,0,1"):
            entries = names.split(f"x[{index}]")[1]
            if len(entries) > whole.ndim or 0 in counted(whole, entries):
                continue
            part = kept[f"{name}[{index}]"]
            torch.testing.assert_close(part, whole[entries], rtol=1e-5, atol=1e-5, msg=f"{name}[{index}]")
            assert tuple(part.shape) == kept.shape(f"{name}[{index}]")
            assert len(kept.axes(f"{name}[{index}]")) == part.ndim


def counted(whole: torch.Tensor, entries: names.Index) -> list[int]:
    try:
        return names.selected("x", entries, ("",) * whole.ndim, whole.shape)
    except Misuse:
        return [0]


def spelt(entry: int | slice) -> str:
    if isinstance(entry, int):
        return str(entry)
    return ":".join("" if end is None else str(end) for end in (entry.start, entry.stop))


entry = st.integers(-20, 20) | st.builds(slice, st.none() | st.integers(-20, 20), st.none() | st.integers(-20, 20))


@settings(deadline=None)
@given(st.lists(entry, min_size=1, max_size=3), st.booleans())
def test_an_index_is_read_as_python_reads_it(entries: list[int | slice], spaced: bool) -> None:
    written = (", " if spaced else ",").join(map(spelt, entries))
    plain, index = names.split(f"blocks.0.attn.pattern[{written}]")
    assert plain == "blocks.0.attn.pattern"
    assert index == tuple(entries)
    x = torch.arange(3 * 5 * 7).view(3, 5, 7)
    try:
        expected = x[index]
    except IndexError:
        with pytest.raises(Misuse, match="out of range|is empty"):
            names.selected("x", index, ("a", "b", "c"), x.shape)
        return
    if expected.numel() == 0:
        with pytest.raises(Misuse, match="is empty"):
            names.selected("x", index, ("a", "b", "c"), x.shape)
        return
    counts = names.selected("x", index, ("a", "b", "c"), x.shape)
    assert [counts[i] for i in names.kept(index, counts)] == list(expected.shape)
    for leading in range(4):
        first, rest = names.parted(index, leading)
        assert torch.equal(x[tuple(first)][rest], expected)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("embed[", "no index"),
        ("embed[]", "no index"),
        ("embed[1", "no index"),
        ("embed[1,]", "no index"),
        ("embed[1:2:3]", "no index"),
        ("embed[x]", "no index"),
        ("embed[1]x", "no index"),
        ("embed[1][2]", "no index"),
        ("embed[1,2,3]", "more entries than axes: T, D"),
        ("embed[12]", "out of range: axis T has 12 entries"),
        ("embed[0,-49]", "out of range: axis D has 48 entries"),
        ("embed[5:5]", "empty: axis T has 12 entries"),
        ("blocks.1.attn.pattern[4,2]", "out of range: axis H has 4 entries"),
        ("logits[12]", "out of range: axis T has 12 entries"),
        ("weights.stack.blocks.0.mlp.down.weight[48]", "axis D has 48"),
        ("weights.stack.blocks.0.mlp.down.weight.T[80]", "axis F has 80"),
        ("weights.stack.blocks.0.mlp.down.weigth", r"Did you mean 'weights\.stack\.blocks\.0\.mlp\.down\.weight'"),
        ("weights.", "weight_names"),
    ],
)
def test_nonsense_is_said_in_a_sentence(name: str, says: str) -> None:
    _, _, kept = ran()
    with pytest.raises(Misuse, match=says):
        kept[name]
    with pytest.raises(Misuse, match=says):
        kept.shape(name)
    assert name not in kept


def test_a_row_of_a_long_text_is_computed_without_the_rest() -> None:
    """12 heads of 2,000 tokens: a pattern of 192 MB, of which 40 rows of one head are asked."""
    kept = long_run()
    seen: list[int] = []
    kept["blocks.0.attn.pattern[3,100:140]"]
    with Largest(seen):
        rows = kept["blocks.0.attn.pattern[3,100:140]"]
        kept["blocks.0.attn.scores[-1,7]"]
        kept["blocks.0.attn.z[5:9,2]"]
        kept["logits[-1]"]
        kept["lens.p[7]"]
    assert rows.shape == (40, 2000)
    torch.testing.assert_close(rows.sum(-1), torch.ones(40))
    assert max(seen) <= 12 * 2000 * 16  # all keys, for every head; far from (H, T, T) or (T, V)
    seen.clear()
    with Largest(seen):
        kept["blocks.0.attn.kinds"]
        kept["blocks.0.attn.coarse"]
        kept["blocks.0.attn.z"]
    assert max(seen) <= 2000 * 2000  # one head at a time


def long_run() -> Record:
    block = machines.spec.Block(machines.attention(heads=12, kv_heads=4), machines.GATED, machines.RMS)
    model = machines.lively(machines.decoder(block))
    ids = machines.tokens(1, 2000)
    return run(model, [ids], CARD, tokens=ids[0].tolist())


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes how many numbers each tensor has that is made in here."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made._base is None:
            self.seen.append(made.untyped_storage().nbytes() // made.element_size())
        return made


def test_weights_are_answered_by_name() -> None:
    model, _, kept = ran()
    state = model.state_dict()
    assert kept.weight_names() == [f"weights.{name}" for name in state]
    assert not set(kept.weight_names()) & set(kept.names(views=True))
    for name, weight in state.items():
        assert torch.equal(kept[f"weights.{name}"], weight)
        assert kept.shape(f"weights.{name}") == tuple(weight.shape)
        assert len(kept.axes(f"weights.{name}")) == weight.ndim
    down = "weights.stack.blocks.1.mlp.down.weight"
    assert torch.equal(kept[f"{down}.T[7]"], state["stack.blocks.1.mlp.down.weight"][:, 7])
    assert torch.equal(kept[f"{down}[3,5:9]"], state["stack.blocks.1.mlp.down.weight"][3, 5:9])
    assert kept.axes(down) == ("D", "F")
    assert kept.axes(f"{down}.T[7]") == ("D",)
    assert kept.axes("weights.stack.blocks.1.attn.k.weight") == ("KE", "D")
    assert kept.axes("weights.stem.tokens.weight") == ("V", "D")
    assert ran("gpt2")[2].axes("weights.stack.blocks.0.mlp.up.bias") == ("F",)


def test_patterns_reach_views_and_weights_only_where_nothing_plainer_matches() -> None:
    _, _, kept = ran()
    assert kept.matching("blocks.0.attn.*") == [f"blocks.0.attn.{kind}" for kind, _ in names.ATTENTION]
    assert kept.matching("blocks.*.attn.kinds") == [f"blocks.{i}.attn.kinds" for i in range(3)]
    assert kept.matching("weights.*.down.weight") == [f"weights.stack.blocks.{i}.mlp.down.weight" for i in range(3)]
    assert kept.matching(["embed", "embed[3]", "weights.*.1.*down.weight.T"][:2]) == ["embed", "embed[3]"]
    with pytest.raises(Misuse, match=r"matches 'embed\[99\]'"):
        kept.matching("embed[99]")


def test_parts_go_into_a_file_and_come_back(tmp_path: Path) -> None:
    _, _, kept = ran()
    parts = ["blocks.0.attn.pattern[3]", "lens.ids[-1]", "logits[4:6]", "weights.stack.blocks.0.mlp.down.weight.T[7]"]
    kept.save(tmp_path / "run.cutaway", include=[*parts, "blocks.*.attn.kinds"])
    again = cutaway.open(tmp_path / "run.cutaway")
    for name in (*parts, "blocks.2.attn.kinds", "blocks.2.attn.kinds[1,3]"):
        assert name in again
        assert torch.equal(again[name], kept[name])
        assert again.axes(name) == kept.axes(name)
    assert "lens.p" not in again  # its weights stayed behind
    with pytest.raises(Misuse, match="did not keep"):
        again["lens.p"]
