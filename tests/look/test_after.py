"""A run that goes on from another is the run of the whole text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cutaway.look import Record, run
from cutaway.look.after import begun, can_be_gone_on_from
from cutaway.model.transformer import Transformer
from tests.look.test_record import CARD, ran
from tests.model import machines

KINDS = [name for name, machine in machines.DECODERS.items() if machine.stack.relative is None]


def again(model: Transformer, tokens: list[int], after: Record | None) -> Record:
    return run(model, [torch.tensor([tokens])], CARD, after=after, tokens=tokens)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("changed", [1, 4, 12])
def test_it_holds_what_a_whole_run_holds(name: str, changed: int) -> None:
    model, _, earlier = ran(name, length=24)
    fresh = [(token + 1) % 7 for token in earlier.tokens[-changed:]]
    tokens = earlier.tokens[:-changed] + fresh + [3, 1]
    assert begun(earlier, tokens) == 24 - changed
    whole, gone_on = again(model, tokens, None), again(model, tokens, earlier)
    assert gone_on.names() == whole.names()
    for key, x in whole.tensors.items():
        assert torch.allclose(gone_on.tensors[key], x, rtol=1e-5, atol=1e-5 * float(x.abs().max())), key
    assert torch.allclose(gone_on["logits"], whole["logits"], rtol=1e-5, atol=1e-5)


def test_only_what_follows_is_run() -> None:
    model, _, earlier = ran(length=24)
    seen = []
    hook = model.stack.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    again(model, [*earlier.tokens[:20], 5, 6, 7], earlier)
    again(model, earlier.tokens[:9], earlier)  # shorter: the last is run, for something must be
    hook.remove()
    assert seen == [3, 1]


def test_numbers_taken_over_are_copies() -> None:
    model, _, earlier = ran(length=24)
    later = again(model, [*earlier.tokens, 5], earlier)
    earlier.tensors["embed"].zero_()
    assert later["embed"][0].abs().sum() > 0


def test_what_cannot_be_gone_on_from_is_run_whole() -> None:
    model, ids, earlier = ran(length=24)
    tokens = earlier.tokens
    edited = run(model, [ids], CARD, edit={"blocks.0.mlp.out": lambda x: x * 0}, tokens=tokens)
    part = run(model, [ids], CARD, keep=["embed"], tokens=tokens)
    stack = model.spec.stack
    blocks = tuple(replace(one, attn=replace(one.attn, causal=False)) for one in stack.blocks)
    encoder = replace(earlier, spec=replace(model.spec, stack=replace(stack, blocks=blocks)))
    other = replace(earlier, tokens=[tokens[0] + 1, *tokens[1:]])
    assert [can_be_gone_on_from(one) for one in (earlier, edited, part, encoder)] == [True, False, False, False]
    assert [begun(earlier, tokens), begun(other, tokens), begun(earlier, [])] == [23, 0, 0]
    assert torch.equal(again(model, tokens, edited)["logits"], earlier["logits"])


def test_a_window_that_has_slid_is_seen() -> None:
    """What the tokens in common left is more than a window holds: of it only the newest counts."""
    name = next(name for name in KINDS if any(block.attn.window for block in machines.DECODERS[name].stack.blocks))
    window = min(block.attn.window for block in machines.DECODERS[name].stack.blocks if block.attn.window)
    model, _, earlier = ran(name, length=2 * window + 3)
    tokens = [*earlier.tokens[:-2], 1, 2, 3]
    whole, gone_on = again(model, tokens, None), again(model, tokens, earlier)
    assert torch.allclose(gone_on["logits"], whole["logits"], rtol=1e-5, atol=1e-5)
