"""Encoder-decoders' files as they are found: second copies, dead tensors, what is absent; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.errors import Refused
from cutaway.families import checkpoint, describe
from cutaway.model import spec
from tests.families.variants import BART, MARIAN, T5, WHISPER


@pytest.fixture
def copied(saved, tmp_path):
    """copied(variant, change) -> a changed copy of what the reference saved, and what the reference computes."""

    def copy(variant: str, change=lambda tensors: tensors):
        folder, theirs = saved(variant)
        tensors = load_file(folder / "model.safetensors")
        save_file({name: x.contiguous() for name, x in change(tensors).items()}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
        return tmp_path, theirs

    return copy


def agrees(folder: Path, theirs) -> bool:
    from tests.families.reference import our_run, worst

    return worst(our_run(checkpoint.open(folder, strict=True).load()), theirs) < 1e-5


@pytest.mark.parametrize(
    ("variant", "shared", "copies"),
    [
        ("t5", "shared.weight", ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")),
        (
            "marian",
            "model.shared.weight",
            ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
        ),
    ],
)
def test_a_shared_embedding_may_stand_under_any_of_its_names(copied, variant, shared, copies):
    folder, theirs = copied(variant, lambda w: w | {name: w[shared].clone() for name in copies})
    assert agrees(folder, theirs)
    model = checkpoint.open(folder).load()
    assert model.source.tokens is model.target.tokens
    for name in copies:
        folder, theirs = copied(variant, lambda w, name=name: {(name if k == shared else k): x for k, x in w.items()})
        assert agrees(folder, theirs)
    folder, _ = copied(variant, lambda w: w | {copies[0]: w[shared] + 1})
    with pytest.raises(Refused, match="with other numbers|differs from the embedding"):
        checkpoint.open(folder).load()


def test_the_bias_by_distance_of_cross_attention_is_dead(copied):
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    folder, theirs = copied("t5", lambda w: w | {name: torch.randn(8, 4)})
    assert agrees(folder, theirs)


def test_stored_sinusoids_are_those_that_are_computed(copied):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    model = transformers.MarianMTModel(transformers.MarianConfig(**{**MARIAN, "max_position_embeddings": 512}))
    theirs = model.model.encoder.embed_positions.weight
    from cutaway.model.positions import sinusoids

    torch.testing.assert_close(sinusoids(torch.arange(512), 48, torch.float32), theirs, rtol=0, atol=1e-7)
    table = {f"model.{side}.embed_positions.weight": theirs.detach().clone()[:64] for side in ("encoder", "decoder")}
    folder, known = copied("marian", lambda w: w | table)
    assert agrees(folder, known)


def test_without_a_bias_of_the_logits_it_is_zero(copied, tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    from tests.families.reference import reference_run, stir

    headless = transformers.BartModel(transformers.BartConfig(**BART))
    stir(headless)
    headless.save_pretrained(tmp_path)
    assert "final_logits_bias" not in load_file(tmp_path / "model.safetensors")
    whole = transformers.BartForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert agrees(tmp_path, reference_run(whole))


def test_t5_1_1_as_each_version_of_the_reference_describes_it(copied):
    variant = "t5, gated gelu, a head of its own"
    folder, theirs = copied(variant)  # transformers 5: tied, and not scaled
    assert agrees(folder, theirs)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k != "scale_decoder_outputs"} | {"tie_word_embeddings": False})
    )
    assert agrees(folder, theirs)
    described = checkpoint.open(folder).spec
    assert (described.head.tied, described.head.scale) == (False, 1.0)
    # One that was made there from nothing has no head of its own: it is the embedding, not scaled.
    folder, _ = copied(variant, lambda w: {name: x for name, x in w.items() if name != "lm_head.weight"})
    model = checkpoint.open(folder).load()
    assert torch.equal(model.head.out.weight, model.target.tokens.weight)


def test_whisper_s_head_may_be_stored_and_is_the_embedding(copied):
    table = "model.decoder.embed_tokens.weight"
    folder, theirs = copied("whisper", lambda w: w | {"proj_out.weight": w[table].clone()})
    assert agrees(folder, theirs)
    folder, _ = copied("whisper", lambda w: w | {"proj_out.weight": w[table] + 1})
    with pytest.raises(Refused, match="proj_out.weight differs from the embedding"):
        checkpoint.open(folder).load()


def test_a_whisper_saved_without_its_head_has_it_all_the_same(copied):
    folder, theirs = copied("whisper", lambda w: {name.removeprefix("model."): x for name, x in w.items()})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["WhisperModel"]}))
    assert agrees(folder, theirs)


@pytest.mark.parametrize(
    "variant", ["t5", "t5, gated gelu, a head of its own", "bart", "marian, two vocabularies", "whisper"]
)
def test_the_reference_reads_what_we_write(saved, variant, tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    from tests.families.reference import our_run, reference_run, worst

    folder, _ = saved(variant)
    opened = checkpoint.open(folder)
    model = opened.load()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    checkpoint.save(model, opened.config, tmp_path)
    auto = "AutoModelForSpeechSeq2Seq" if variant == "whisper" else "AutoModelForSeq2SeqLM"
    theirs, notes = getattr(transformers, auto).from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert worst(our_run(model), reference_run(theirs.eval())) < 1e-5


# ------------------------------------------------------------------ what is refused

CONFIGS = {
    "t5": {**T5, "model_type": "t5", "is_encoder_decoder": True},
    "bart": {**BART, "model_type": "bart", "is_encoder_decoder": True},
    "marian": {**MARIAN, "model_type": "marian", "is_encoder_decoder": True},
    "whisper": {**WHISPER, "model_type": "whisper", "is_encoder_decoder": True},
}


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("t5", "T5EncoderModel", "an encoder alone"),
        ("t5", "T5ForSequenceClassification", "a head that Cutaway does not read yet"),
        ("bart", "BartForSequenceClassification", "a head that Cutaway does not read yet"),
        ("bart", "BartForCausalLM", "a head that Cutaway does not read yet"),
        ("marian", "MarianForCausalLM", "a head that Cutaway does not read yet"),
        ("whisper", "WhisperForCausalLM", "a head that Cutaway does not read yet"),
        ("whisper", "WhisperForAudioClassification", "a head that Cutaway does not read yet"),
    ],
)
def test_a_checkpoint_without_a_head_that_writes_says_which_it_has(kind, name, why):
    with pytest.raises(Refused, match=f'architectures = \\["{name}"\\], {why}.*ForConditionalGeneration'):
        describe({**CONFIGS[kind], "architectures": [name]})


def test_a_t5_1_1_saved_without_its_head_is_refused():
    with pytest.raises(Refused, match=r'"T5Model"\], without a head'):
        describe({**CONFIGS["t5"], "architectures": ["T5Model"], "tie_word_embeddings": False})
    assert describe({**CONFIGS["t5"], "architectures": ["T5Model"]})[1].head.tied


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("t5", {"is_encoder_decoder": False}),
        ("t5", {"is_decoder": True}),
        ("t5", {"feed_forward_proj": "gated-tanh"}),
        ("t5", {"feed_forward_proj": ["relu"]}),
        ("t5", {"dense_act_fn": "silu"}),
        ("t5", {"is_gated_act": True}),
        ("bart", {"normalize_before": True}),
        ("bart", {"add_final_layer_norm": True}),
        ("bart", {"add_bias_logits": True}),
        ("bart", {"static_position_embeddings": True}),
        ("bart", {"tie_word_embeddings": False}),
        ("marian", {"static_position_embeddings": False}),
        ("marian", {"normalize_embedding": True}),
        ("marian", {"activation_function": "swiglu"}),
        ("whisper", {"scale_embedding": True}),
        ("whisper", {"tie_word_embeddings": False}),
        ("whisper", {"encoder_layers": 0}),
        ("whisper", {"num_mel_bins": 0}),
    ],
)
def test_what_changes_the_computation_is_refused(kind, says):
    describe(CONFIGS[kind])
    (key,) = says
    with pytest.raises(Refused, match=key):
        describe({**CONFIGS[kind], **says})


@pytest.mark.parametrize("model_type", ["mt5", "umt5", "mbart", "pegasus", "m2m_100", "albert"])
def test_related_types_are_not_yet_read_and_those_that_are_get_listed(model_type):
    with pytest.raises(Refused, match=rf'"{model_type}", not yet\. Known: .*bart.*marian.*t5'):
        describe({"model_type": model_type})


def test_the_facts_of_both_sides():
    two = describe({**CONFIGS["marian"], "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 61})[1]
    assert (two.vocabulary, two.target.vocabulary, two.head.size, two.shared_embedding) == (97, 61, 61, False)
    assert [len(stack.blocks) for stack in two.stacks] == [2, 3]
    assert [stack.blocks[0].attn.heads for stack in two.stacks] == [4, 6]
    assert isinstance(two, spec.Seq2Seq)
    assert two.task == "rewrite"


def test_what_whisper_is():
    heard = describe(CONFIGS["whisper"])[1]
    assert heard.source == spec.Mel(48, 10, 30)
    assert (heard.context, heard.vocabulary, heard.target.vocabulary) == (64, 0, 97)
    assert {block.attn.bias for stack in heard.stacks for block in stack.blocks} == {"qvo"}
    assert heard.task == "transcribe"
