"""Beam search against `transformers`, token for token, on tiny random models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cutaway.errors import Misuse
from cutaway.generate.beam import beam_search
from cutaway.generate.loop import generate
from cutaway.generate.sampler import Sampler
from cutaway.model.transformer import Transformer
from tests.model.machines import CONTEXT, DECODERS, lively

PROMPT = [1, 17, 5, 42, 8]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Transformer, Any]]:
    """Reference models saved to disk, and ours read from there."""
    transformers = pytest.importorskip("transformers", reason="is the reference for beam search")
    from cutaway.families import checkpoint

    common = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    small = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 48, **common,
    }  # fmt: skip
    configs = {
        "gpt2": transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=48, **common),
        "llama": transformers.LlamaConfig(num_key_value_heads=2, **small),
        "mistral": transformers.MistralConfig(num_key_value_heads=2, sliding_window=6, **small),
    }
    made = {}
    for kind, config in configs.items():
        torch.manual_seed(1)
        reference = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        folder = tmp_path_factory.mktemp(kind)
        reference.save_pretrained(folder)
        ours = checkpoint.open(folder).load(torch.float32)
        assert isinstance(ours, Transformer)
        made[kind] = (ours, reference)
    return made


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("beams", [1, 2, 4])
@pytest.mark.parametrize("eos", [(), (2,), (2, 9, 33)], ids=["no end", "one end", "three ends"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_the_tokens_are_the_reference_libraries(
    kind: str, eos: tuple[int, ...], beams: int, length_penalty: float, pairs: dict[str, tuple[Transformer, Any]]
) -> None:
    ours, reference = pairs[kind]
    for first in (1, 30, 55):
        ids = [first, *PROMPT[1:]]
        expected = reference.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            num_beams=beams, do_sample=False, max_new_tokens=14, length_penalty=length_penalty,
            eos_token_id=list(eos) or None, pad_token_id=0, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        best = beam_search(ours, ids, beams=beams, max_new_tokens=14, eos=eos, length_penalty=length_penalty)[0]
        assert best.tokens == expected.sequences[0, len(ids) :].tolist()
        assert best.finish_reason == ("stop" if best.tokens[-1] in eos else "length")
        if beams > 1:
            assert best.score == pytest.approx(expected.sequences_scores[0].item(), rel=1e-4)


def test_one_beam_is_greedy() -> None:
    model = lively(DECODERS["windows"])
    greedy = generate(model, PROMPT, sampler=Sampler(temperature=0), max_new_tokens=20).finish()  # type: ignore[arg-type]
    (best,) = beam_search(model, PROMPT, beams=1, max_new_tokens=20)  # type: ignore[arg-type]
    assert best.tokens == greedy.tokens


def test_beams_are_ranked_and_end_with_the_context() -> None:
    model = lively(DECODERS["gpt2"])
    found = beam_search(model, PROMPT, beams=5, max_new_tokens=10**6)  # type: ignore[arg-type]
    assert len(found) == 5
    assert [beam.score for beam in found] == sorted((beam.score for beam in found), reverse=True)
    assert {len(beam.tokens) for beam in found} == {CONTEXT - len(PROMPT) + 1}
    assert len({tuple(beam.tokens) for beam in found}) == 5


@pytest.mark.parametrize("settings", [{"beams": 0}, {"beams": 65}, {"beams": 1.5}, {"max_new_tokens": 0}, {"ids": []}])
def test_misuse(settings: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        beam_search(lively(DECODERS["llama"]), **({"ids": PROMPT, "beams": 2} | settings))  # type: ignore[arg-type]
