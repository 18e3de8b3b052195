"""Tiny models of every family and of every fact that changes a computation, in the reference's own words.

Each variant is the name of a reference configuration class, the class of its model, and what the configuration says.
"""

from __future__ import annotations

from typing import Any

SMALL = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NEOX = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {
    "vocab_size": 97,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODER = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
DISTILBERT = {
    "vocab_size": 97, "dim": 48, "hidden_dim": 80, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 64,
    "pad_token_id": 0,
}  # fmt: skip
IMAGE = {
    "image_size": 24, "patch_size": 8, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 4,
}  # fmt: skip
T5 = {
    "vocab_size": 97, "d_model": 48, "d_kv": 16, "d_ff": 80, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 15, "decoder_start_token_id": 0,
}  # fmt: skip
BART = {
    "vocab_size": 97, "d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 80,
    "decoder_layers": 3, "decoder_attention_heads": 6, "decoder_ffn_dim": 72, "max_position_embeddings": 64,
}  # fmt: skip
MARIAN = {
    **BART, "activation_function": "swish", "scale_embedding": True, "pad_token_id": 96, "decoder_start_token_id": 96,
}  # fmt: skip
WHISPER = {
    "vocab_size": 97, "num_mel_bins": 10, "d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 4,
    "encoder_ffn_dim": 80, "decoder_layers": 3, "decoder_attention_heads": 6, "decoder_ffn_dim": 72,
    "max_source_positions": 30, "max_target_positions": 64, "pad_token_id": 95, "bos_token_id": 95, "eos_token_id": 95,
    "decoder_start_token_id": 96, "begin_suppress_tokens": [7, 95],
}  # fmt: skip
GEMMA = {**SMALL, "head_dim": 16, "sliding_window": 7, "query_pre_attn_scalar": 20}


def _rope(**scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 500000.0} | scaling}


LINEAR = _rope(rope_type="linear", factor=3.0)
LLAMA3 = _rope(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
YARN = _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
YARN_DEEP = _rope(
    rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=256, mscale=1.0,
    mscale_all_dim=0.5, beta_fast=16.0, beta_slow=2.0, truncate=False,
)  # fmt: skip

VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2),
    "gpt2, untied, flatter when deeper, wider": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {**GPT2, "scale_attn_by_inverse_layer_idx": True, "n_inner": 100, "tie_word_embeddings": False},
    ),
    "gpt2, unscaled, relu": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {**GPT2, "scale_attn_weights": False, "activation_function": "relu"},
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", SMALL),
    "llama, tied": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, "tie_word_embeddings": True}),
    "llama, biases": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, "attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, "head_dim": 16, "num_key_value_heads": 1}),
    "llama, linear": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, **LINEAR}),
    "llama, llama3": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, **LLAMA3}),
    "llama, yarn": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, **YARN}),
    "llama, yarn with mscale": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, **YARN_DEEP}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**SMALL, "sliding_window": 7}),
    "mistral, no window": ("MistralConfig", "MistralForCausalLM", {**SMALL, "sliding_window": None}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", SMALL),
    "qwen2, windowed, tied, yarn": (
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {
            **SMALL, **YARN, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**SMALL, "head_dim": 16}),
    "qwen3, windowed, biases": (
        "Qwen3Config",
        "Qwen3ForCausalLM",
        {
            **SMALL, "head_dim": 16, "attention_bias": True, "use_sliding_window": True, "sliding_window": 5,
            "max_window_layers": 2, "tie_word_embeddings": True,
        },
    ),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", {**SMALL, "no_rope_layer_interval": 2}),
    "smollm3, windowed, untied": (
        "SmolLM3Config",
        "SmolLM3ForCausalLM",
        {
            **SMALL, "no_rope_layers": [1, 0, 0], "use_sliding_window": True, "sliding_window": 5,
            "tie_word_embeddings": False,
        },
    ),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", SMALL),
    "olmo2, biases": ("Olmo2Config", "Olmo2ForCausalLM", {**SMALL, "attention_bias": True}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", GEMMA),
    "gemma2, untied, no soft-caps": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {**GEMMA, "tie_word_embeddings": False, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**GEMMA, "num_hidden_layers": 6}),
    "gemma3, two rotations": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            **GEMMA,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
        },
    ),
    "neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", NEOX),
    "neox, sequential": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**NEOX, "use_parallel_residual": False}),
    "neox, no attention bias, tied, all turned": (
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        {
            **NEOX, "attention_bias": False, "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0, "partial_rotary_factor": 1.0
            },
        },
    ),
    "phi": ("PhiConfig", "PhiForCausalLM", NEOX),
    "phi, grouped, normed queries and keys": (
        "PhiConfig",
        "PhiForCausalLM",
        {
            **NEOX, "num_key_value_heads": 2, "qk_layernorm": True, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        },
    ),
    "gpt2, classes": ("GPT2Config", "GPT2ForSequenceClassification", {**GPT2, "num_labels": 5}),
    "llama, classes": ("LlamaConfig", "LlamaForSequenceClassification", {**SMALL, "num_labels": 5}),
    "gemma2, classes": ("Gemma2Config", "Gemma2ForSequenceClassification", {**GEMMA, "num_labels": 5}),
    "neox, classes": ("GPTNeoXConfig", "GPTNeoXForSequenceClassification", {**NEOX, "num_labels": 5}),
    "phi, classes": ("PhiConfig", "PhiForSequenceClassification", {**SMALL, "num_labels": 5}),
    "bert, masked": ("BertConfig", "BertForMaskedLM", ENCODER),
    "bert, masked, relu": (
        "BertConfig",
        "BertForMaskedLM",
        {**ENCODER, "hidden_act": "relu", "layer_norm_eps": 1e-5},
    ),
    "bert, classes": ("BertConfig", "BertForSequenceClassification", {**ENCODER, "num_labels": 5}),
    "bert, no head": ("BertConfig", "BertModel", ENCODER),
    "roberta, masked": ("RobertaConfig", "RobertaForMaskedLM", ENCODER),
    "roberta, classes": ("RobertaConfig", "RobertaForSequenceClassification", {**ENCODER, "num_labels": 3}),
    "roberta, no head": ("RobertaConfig", "RobertaModel", {**ENCODER, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM", ENCODER),
    "camembert": ("CamembertConfig", "CamembertForMaskedLM", ENCODER),
    "distilbert, masked": ("DistilBertConfig", "DistilBertForMaskedLM", DISTILBERT),
    "distilbert, classes": ("DistilBertConfig", "DistilBertForSequenceClassification", {**DISTILBERT, "num_labels": 4}),
    "distilbert, no head": ("DistilBertConfig", "DistilBertModel", {**DISTILBERT, "activation": "relu"}),
    "vit, classes": ("ViTConfig", "ViTForImageClassification", {**IMAGE, "num_labels": 5}),
    "vit, one channel, relu, fewer biases": (
        "ViTConfig",
        "ViTForImageClassification",
        {**IMAGE, "num_channels": 1, "hidden_act": "relu", "qkv_bias": False, "layer_norm_eps": 1e-5},
    ),
    "vit, no head": ("ViTConfig", "ViTModel", IMAGE),
    "deit, classes": ("DeiTConfig", "DeiTForImageClassification", {**IMAGE, "num_labels": 4}),
    "deit, two heads": ("DeiTConfig", "DeiTForImageClassificationWithTeacher", {**IMAGE, "num_labels": 4}),
    "deit, no head": ("DeiTConfig", "DeiTModel", IMAGE),
    "t5": ("T5Config", "T5ForConditionalGeneration", T5),
    "t5, gated gelu, a head of its own": (
        "T5Config",
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "t5, gated silu, coarser": (
        "T5Config",
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-silu", "layer_norm_epsilon": 1e-5, "relative_attention_max_distance": 40},
    ),
    "bart": ("BartConfig", "BartForConditionalGeneration", BART),
    "bart, relu, scaled embedding": (
        "BartConfig",
        "BartForConditionalGeneration",
        {**BART, "activation_function": "relu", "scale_embedding": True},
    ),
    "marian": ("MarianConfig", "MarianMTModel", MARIAN),
    "marian, two vocabularies": (
        "MarianConfig",
        "MarianMTModel",
        {
            **MARIAN, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 61, "pad_token_id": 60,
            "decoder_start_token_id": 60,
        },
    ),
    "whisper": ("WhisperConfig", "WhisperForConditionalGeneration", WHISPER),
    "whisper, relu, deeper ears": (
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {**WHISPER, "activation_function": "relu", "encoder_layers": 4, "decoder_layers": 1},
    ),
}  # fmt: skip
