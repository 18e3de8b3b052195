"""One saved transformers folder, written in each engine's own format. Runs in the environment of benchmarks/peers.py.

    .peers/bin/python benchmarks/formats.py random SHAPE FOLDER        random weights of a shape, as transformers saves
    .peers/bin/python benchmarks/formats.py FORMAT FOLDER TARGET       one of FORMATS, of such a folder

Each engine makes its smaller formats by its own means and defaults: llama.cpp's quantizer (q8_0; q4_0, with the
unembedding in 6 or 8 bits), CTranslate2's int8 (a scale for each row), NNCF's compression for OpenVINO (int8 with a
scale for each row; int4 in groups of at most 128 with embedding and unembedding in 8 bits). What is set apart
from defaults makes the engine faster, and says so. A model is fed with ids, so
no tokenizer is written along: CTranslate2, which insists on one, gets the ids themselves as its words.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from shapes import SHAPES, Config

Tensors = dict[str, np.ndarray]


def random_weights(shape: str, folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    facts = dict(SHAPES[shape])
    config = transformers.AutoConfig.for_model(facts.pop("model_type"), **facts)
    transformers.AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)


# ---------------------------------------------------------------- llama.cpp


def gguf_f32(folder: Path, target: Path) -> None:
    """Every tensor in 32 bits; q8_0 and q4_0 are made of this by llama.cpp itself."""
    import gguf

    config, tensors = json.loads((folder / "config.json").read_text()), read(folder)
    gpt2 = config["model_type"] == "gpt2"
    writer = gguf.GGUFWriter(target, "gpt2" if gpt2 else "llama")
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, tensor in (gpt2_gguf if gpt2 else llama_gguf)(writer, config, tensors).items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gpt2_gguf(writer: Any, config: Config, tensors: Tensors) -> Tensors:
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    names = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
             "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}  # fmt: skip
    written = {"token_embd.weight": tensors["transformer.wte.weight"]}
    written["position_embd.weight"] = tensors["transformer.wpe.weight"]
    for kind in ("weight", "bias"):
        written[f"output_norm.{kind}"] = tensors[f"transformer.ln_f.{kind}"]
        for block in range(config["n_layer"]):
            for theirs, name in names.items():
                tensor = tensors[f"transformer.h.{block}.{theirs}.{kind}"]
                written[f"blk.{block}.{name}.{kind}"] = tensor.T if tensor.ndim == 2 else tensor
    return written


def llama_gguf(writer: Any, config: Config, tensors: Tensors) -> Tensors:
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    names = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip
    written = {"token_embd.weight": tensors["model.embed_tokens.weight"]}
    written["output_norm.weight"] = tensors["model.norm.weight"]
    for block in range(config["num_hidden_layers"]):
        for theirs, name in names.items():
            tensor = tensors[f"model.layers.{block}.{theirs}.weight"]
            if name in ("attn_q", "attn_k"):
                tensor = interleaved(tensor, heads if name == "attn_q" else shared)
            written[f"blk.{block}.{name}.weight"] = tensor
    return written


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp turns neighbouring pairs of a head where transformers turns its two halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def gguf_quantized(kind: str) -> Callable[[Path, Path], None]:
    def write(folder: Path, target: Path) -> None:
        import llama_cpp

        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
        parameters.nthread = 2
        with tempfile.TemporaryDirectory(dir=target.parent) as beside:
            whole = Path(beside, "f32.gguf")
            gguf_f32(folder, whole)
            result = llama_cpp.llama_model_quantize(str(whole).encode(), str(target).encode(), ctypes.byref(parameters))
        if result != 0:
            raise SystemExit(f"llama.cpp could not write {kind}: it returned {result}.")

    return write


# ---------------------------------------------------------------- CTranslate2


def ctranslate2(kind: str) -> Callable[[Path, Path], None]:
    def write(folder: Path, target: Path) -> None:
        from ctranslate2.converters import TransformersConverter

        with tempfile.TemporaryDirectory() as beside:
            for name in ("config.json", "model.safetensors"):
                os.symlink((folder / name).resolve(), Path(beside, name))
            words_of_ids(json.loads((folder / "config.json").read_text())["vocab_size"], Path(beside))
            TransformersConverter(beside).convert(str(target), quantization=kind)

    return write


def words_of_ids(count: int, folder: Path) -> None:
    """A tokenizer whose word for 17 is "17"."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(i): i for i in range(count)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0", bos_token="0", eos_token="0").save_pretrained(folder)


# ---------------------------------------------------------------- OpenVINO


def openvino(kind: str) -> Callable[[Path, Path], None]:
    def write(folder: Path, target: Path) -> None:
        import nncf
        import openvino as ov

        model = stateful(folder)
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
            config = json.loads((folder / "config.json").read_text())
            width = config["n_embd" if config["model_type"] == "gpt2" else "hidden_size"]
            group = next(size for size in (128, 64, 32) if width % size == 0)
            model.set_rt_info(str(group), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
        target.mkdir()
        ov.save_model(model, target / "model.xml", compress_to_fp16=False)

    return write


def stateful(folder: Path) -> Any:
    """The model with its keys and values kept inside, as optimum-intel exports it: that package wants an older
    transformers than the one measured here. Logits are computed at the last ``wanted`` positions only, as OpenVINO's
    own generation has it."""
    import openvino as ov
    import torch
    import transformers
    from openvino import opset13 as op
    from openvino._offline_transformations import apply_make_stateful_transformation

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype="float32")
    model = model.eval().requires_grad_(False)
    config = model.config
    blocks, heads = config.num_hidden_layers, getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = config.hidden_size // config.num_attention_heads

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
            stream = self.model.base_model(
                input_ids=input_ids, position_ids=position_ids, attention_mask=mask, past_key_values=cache,
                use_cache=True,
            ).last_hidden_state  # fmt: skip
            logits = self.model.lm_head(stream[:, wanted])
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


def read(folder: Path) -> Tensors:
    import torch
    from safetensors.torch import load_file

    return {name: tensor.to(torch.float32).numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


FORMATS: dict[str, Callable[[Path, Path], None]] = {
    "gguf-f32": gguf_f32,
    "gguf-q8_0": gguf_quantized("Q8_0"),
    "gguf-q4_0": gguf_quantized("Q4_0"),
    "ctranslate2-float32": ctranslate2("float32"),
    "ctranslate2-int8": ctranslate2("int8"),
    "openvino-fp32": openvino("fp32"),
    "openvino-int8": openvino("int8"),
    "openvino-int4": openvino("int4"),
}


def main() -> None:
    what, source, target = sys.argv[1:]
    if what == "random":
        return random_weights(source, Path(target))
    unfinished = Path(f"{target}.unfinished")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    FORMATS[what](Path(source), unfinished)
    unfinished.rename(target)


if __name__ == "__main__":
    main()
