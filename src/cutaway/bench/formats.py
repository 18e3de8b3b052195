"""A model's folder, written in another engine's own format. Runs as a file, in the environment that engine is in.

    python formats.py ENGINE KIND FOLDER TARGET      of ENGINE one of FORMATS, which is what worker.py then loads

Each engine makes its smaller formats by its own means and defaults: llama.cpp's quantizer (q8_0; q4_0, with the
unembedding in 6 or 8 bits), CTranslate2's int8 (a scale for each row), NNCF's compression for OpenVINO (int8 with a
scale for each row; int4 in groups of at most 128 with embedding and unembedding in 8 bits). What is set apart
from defaults makes the engine faster, and says so. A model is fed with ids, so no tokenizer is written along:
CTranslate2, which insists on one, gets the ids themselves as its words.

What cannot be written ends with a sentence, and 1.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]
Write = Callable[[Path, Path], None]


def opened(folder: Path, **how: Any) -> Any:
    """The model as transformers has it, in float32."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **how)
    return model.eval().requires_grad_(False)


# ---------------------------------------------------------------- llama.cpp


@dataclass(frozen=True)
class Gguf:
    """What a file of llama.cpp's holds, but for its vocabulary."""

    architecture: str
    facts: dict[str, int | float]
    tensors: Tensors


#: transformers' kind of model -> llama.cpp's.
ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
GPT2 = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
LLAMA = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
OUTSIDE = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip
FILE_TYPES = {"f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}


def gguf_of(model: Any) -> Gguf:
    """Every tensor of ``model`` under llama.cpp's name for it, in 32 bits."""
    config = model.config
    if config.model_type not in ARCHITECTURES:
        raise SystemExit(f"no file of its format is written here for a {config.model_type} model")
    gpt2, architecture = config.model_type == "gpt2", ARCHITECTURES[config.model_type]
    heads, width = config.num_attention_heads, config.hidden_size
    facts: dict[str, int | float] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": width,
        "block_count": config.num_hidden_layers,
        "attention.head_count": heads,
        "vocab_size": config.vocab_size,
    }
    more: Tensors = {}
    if gpt2:
        facts["feed_forward_length"] = config.n_inner or 4 * width
        facts["attention.layer_norm_epsilon"] = float(config.layer_norm_epsilon)
    else:
        its = getattr(config, "head_dim", None) or width // heads
        facts |= {
            "feed_forward_length": config.intermediate_size,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
            "attention.key_length": its,
            "attention.value_length": its,
            "rope.dimension_count": its,
            "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        }
        more = slower_turns(model.model.rotary_emb, float(facts["rope.freq_base"]), its)
    if more and architecture != "llama":
        raise SystemExit(f"no file of its format is written here for a {config.model_type} model with scaled rotations")

    tensors = more
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = tensor.numpy()
        if gpt2 and value.ndim == 2 and ".h." in name:
            value = value.T  # transformers keeps GPT-2's matrices the other way round
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            value = interleaved(value, heads if ".q_proj." in name else config.num_key_value_heads)
        tensors[gguf_name(name, gpt2)] = value
    return Gguf(architecture, facts, tensors)


def gguf_name(name: str, gpt2: bool) -> str:
    """llama.cpp's name for a tensor of transformers'."""
    part, _, kind = name.rpartition(".")
    inside = part.removeprefix("transformer.h." if gpt2 else "model.layers.")
    block, _, part_of_block = inside.partition(".")
    named = (GPT2 if gpt2 else LLAMA).get(part_of_block) if inside != part else None
    if named is not None:
        return f"blk.{block}.{named}.{kind}"
    if part not in OUTSIDE:
        raise SystemExit(f"its format has no place for {name}")
    return f"{OUTSIDE[part]}.{kind}"


def slower_turns(rotary: Any, base: float, width: int) -> Tensors:
    """By how much each pair of a head turns more slowly than without scaling; nothing where none does."""
    if rotary.attention_scaling != 1:
        raise SystemExit("no file of its format is written here for rotations that scale attention too")
    plain = base ** -(np.arange(0, width, 2, dtype=np.float32) / width)
    slower = plain / rotary.inv_freq.float().numpy()
    return {} if np.allclose(slower, 1, rtol=1e-4) else {"rope_freqs.weight": slower.astype(np.float32)}


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp turns neighbouring pairs of a Llama's head where transformers turns its two halves."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def gguf_whole(folder: Path, target: Path) -> None:
    """Every tensor in 32 bits; llama.cpp itself makes the other kinds of this."""
    import gguf

    content = gguf_of(opened(folder))
    writer = gguf.GGUFWriter(target, content.architecture)
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for key, value in content.facts.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"{content.architecture}.{key}", value)
    for name, tensor in content.tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_smaller(kind: str) -> Write:
    def write(folder: Path, target: Path) -> None:
        import llama_cpp

        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{FILE_TYPES[kind]}")
        parameters.nthread = os.cpu_count() or 1
        with tempfile.TemporaryDirectory(dir=target.parent) as beside:
            whole = Path(beside, "f32.gguf")
            gguf_whole(folder, whole)
            result = llama_cpp.llama_model_quantize(str(whole).encode(), str(target).encode(), ctypes.byref(parameters))
        if result != 0:
            raise SystemExit(f"it could not write {kind}: it returned {result}")

    return write


# ---------------------------------------------------------------- CTranslate2


def ctranslate2(kind: str) -> Write:
    def write(folder: Path, target: Path) -> None:
        from ctranslate2.converters import TransformersConverter

        with tempfile.TemporaryDirectory() as beside:
            for path in folder.iterdir():
                if path.name == "config.json" or ".safetensors" in path.suffixes:
                    os.symlink(path.resolve(), Path(beside, path.name))
            words_of_ids(json.loads((folder / "config.json").read_text())["vocab_size"], Path(beside))
            TransformersConverter(beside).convert(str(target), quantization=kind)

    return write


def words_of_ids(count: int, folder: Path) -> None:
    """A tokenizer whose word for 17 is "17"."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(i): i for i in range(count)}, unk_token="0"))
    special = {f"{kind}_token": "0" for kind in ("unk", "bos", "eos", "pad")}  # or some kinds add their own
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


# ---------------------------------------------------------------- OpenVINO


def openvino(kind: str) -> Write:
    def write(folder: Path, target: Path) -> None:
        import nncf
        import openvino as ov

        try:
            its = opened(folder, attn_implementation="sdpa")
        except ValueError:  # some kinds have none
            its = opened(folder, attn_implementation="eager")
        model = stateful(its)
        if kind == "int8":
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        if kind == "int4":
            fit = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
            model = nncf.compress_weights(
                model, mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=128, ratio=1.0, advanced_parameters=fit
            )
        if kind != "fp32":
            # How many activations share a scale. 32 is the default; the widest that fits here is the fastest: a third
            # more of a prompt, a twentieth more of a text.
            group = next((size for size in (128, 64) if its.config.hidden_size % size == 0), 32)
            model.set_rt_info(str(group), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
        target.mkdir()
        ov.save_model(model, target / "model.xml", compress_to_fp16=False)

    return write


def stateful(model: Any) -> Any:
    """The model with its keys and values kept inside, as optimum-intel exports it: that package wants an older
    transformers than the one measured here. Logits are computed at the last ``wanted`` positions only, as OpenVINO's
    own generation has it."""
    import openvino as ov
    import torch
    import transformers
    from openvino import opset13 as op
    from openvino._offline_transformations import apply_make_stateful_transformation

    config = model.config
    blocks, heads = config.num_hidden_layers, getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    class Kept(transformers.DynamicCache):  # whose own layers begin with an empty tensor of one axis
        def __init__(self, halves: tuple[Any, ...]) -> None:
            super().__init__()
            self.halves = list(halves)

        def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
            for which, new in ((2 * layer_idx, key_states), (2 * layer_idx + 1, value_states)):
                self.halves[which] = torch.cat([self.halves[which], new], 2)
            return self.halves[2 * layer_idx], self.halves[2 * layer_idx + 1]

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return int(self.halves[2 * layer_idx].shape[2])

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, position_ids: Any, wanted: Any, *past: Any) -> tuple[Any, ...]:
            cache = Kept(past)
            before = torch.arange(past[0].shape[2] + input_ids.shape[1])[None, None, None]
            later = before > position_ids[:, None, :, None]
            mask = torch.zeros(later.shape).masked_fill(later, torch.finfo(torch.float32).min)
            logits = self.model(
                input_ids=input_ids, position_ids=position_ids, attention_mask=mask, past_key_values=cache,
                use_cache=True, logits_to_keep=wanted,
            ).logits  # fmt: skip
            return (logits, *cache.halves)

    halves = [f"{i}.{half}" for i in range(blocks) for half in ("key", "value")]
    example = [torch.randint(0, 9, (2, 2)), torch.tensor([[3, 4], [3, 4]]), torch.tensor([0, 1])]
    example += [torch.randn(2, heads, 3, width) for _ in halves]
    with torch.no_grad():
        exported = ov.convert_model(Step(), example_input=tuple(example))
    inputs = ["input_ids", "position_ids", "wanted", *(f"past.{half}" for half in halves)]
    outputs = ["logits", *(f"present.{half}" for half in halves)]
    shapes = [[-1, -1], [-1, -1], [-1], *([-1, heads, -1, width] for _ in halves)]
    for port, name, shape in zip(exported.inputs, inputs, shapes, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    for port, name in zip(exported.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    exported.validate_nodes_and_infer_types()

    # Which text each row of the cache goes on with: the CPU's fused attention looks for this gather.
    order = op.parameter(name="beam_idx", dtype=ov.Type.i32, shape=ov.PartialShape([-1]))
    order.output(0).get_tensor().add_names({"beam_idx"})
    exported.add_parameters([order])
    for half in halves:
        past = exported.input(f"past.{half}")
        consumers = past.get_target_inputs()
        gathered = op.gather(past, order, op.constant(0))
        for consumer in consumers:
            consumer.replace_source_output(gathered.output(0))
    exported.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(exported, {f"past.{half}": f"present.{half}" for half in halves})

    # An empty cache of as many rows as there are texts to begin with.
    rows = op.gather(op.shape_of(exported.input("input_ids"), output_type="i64"), op.constant([0]), op.constant(0))
    for node in exported.get_ops():
        if node.get_type_name() == "ReadValue":
            shape = op.concat([rows, op.constant(np.array([heads, 0, width], np.int64))], 0)
            node.set_arguments([op.broadcast(op.constant(0.0, dtype=np.float32), shape)])
    exported.validate_nodes_and_infer_types()
    return exported


# ----------------------------------------------------------------


FORMATS: dict[str, dict[str, Write]] = {
    "llama.cpp": {"f32": gguf_whole, **{kind: gguf_smaller(kind) for kind in FILE_TYPES}},
    "CTranslate2": {kind: ctranslate2(kind) for kind in ("float32", "int8")},
    "OpenVINO": {kind: openvino(kind) for kind in ("fp32", "int8", "int4")},
}


def main() -> None:
    engine, kind, folder, target = sys.argv[1:]
    unfinished = Path(f"{target}.unfinished")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    FORMATS[engine][kind](Path(folder), unfinished)
    unfinished.rename(target)


if __name__ == "__main__":
    main()
