"""The reference beside ours: tiny random models, saved by the one, read by the other, compared number by number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.model import spec
from cutaway.model.tap import record
from cutaway.model.transformer import Seq2Seq
from tests.families.golden import image, sound
from tests.families.variants import VARIANTS

TOKENS = torch.randint(3, 97, (1, 24), generator=torch.Generator().manual_seed(0))


def reference_model(variant: str) -> nn.Module:
    """A random model of the reference, in float32, whose biases and norm weights stand well away from 0 and 1."""
    import transformers

    config_name, model_name, says = VARIANTS[variant]
    config = getattr(transformers, config_name)(**says)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = own_head(getattr(transformers, model_name)(config))
    stir(model)
    return model.float().eval()


def own_head(model: nn.Module) -> nn.Module:
    """Give T5 1.1 the head of its own that files of it hold; the reference's constructor ties it all the same."""
    if getattr(model.config, "scale_decoder_outputs", True) is False:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def stir(model: nn.Module) -> None:
    """Move what starts at 0 or 1, and make matrices large enough that attention is far from even."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad:  # sinusoids
                continue
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            else:
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(generator=generator)


def written(tokens: Tensor) -> Tensor:
    """What a decoder behind an encoder reads while that reads ``tokens``: fewer, and of any vocabulary above 23."""
    return tokens.flip(1)[:, 3:] % 20 + 3


def called(model: nn.Module, tokens: Tensor) -> Any:
    """What a model, ours or the reference's, makes of ``tokens``, of an image or of a sound."""
    if isinstance(model, Seq2Seq):
        return model(inputs_of(model, tokens), written(tokens))
    if hasattr(model, "config") and model.config.is_encoder_decoder:
        return model(inputs_of(model, tokens), decoder_input_ids=written(tokens))
    return model(inputs_of(model, tokens))


def inputs_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """What a model, ours or the reference's, is compared on: ``tokens``, or an image or a sound of its own size."""
    if (stem := getattr(getattr(model, "spec", None), "stem", None)) is not None:
        if isinstance(stem, spec.Mel):
            return sound(stem.bins, 2 * stem.length)
        return image(stem.channels, stem.image) if isinstance(stem, spec.Patches) else tokens
    config = model.config
    if hasattr(config, "num_mel_bins"):
        return sound(config.num_mel_bins, 2 * config.max_source_positions)
    return image(config.num_channels, config.image_size) if hasattr(config, "image_size") else tokens


@torch.no_grad()
def reference_run(model: nn.Module, tokens: Tensor = TOKENS) -> dict[str, Tensor]:
    """What comes out of every block (T, D), of an encoder before a decoder (S, D), and of the head, (T, V) or (V), in
    the reference's own arithmetic."""
    two = model.config.is_encoder_decoder
    sides = {"encoder.": model.get_encoder(), "decoder.": model.get_decoder()} if two else {"": model}
    out: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            out[name] = (output[0] if isinstance(output, tuple) else output)[0]

        return hook

    handles = []
    for side, stack in sides.items():
        layers = next(module for module in stack.modules() if isinstance(module, nn.ModuleList))
        for i, layer in enumerate(layers):
            handles.append(layer.register_forward_hook(keep(f"{side}blocks.{i}.resid_post")))
    result = called(model, tokens)
    if two:
        out["encoder.final"] = result.encoder_last_hidden_state[0]
    if (logits := getattr(result, "logits", None)) is not None:
        out["logits"] = logits[0]
    for handle in handles:
        handle.remove()
    return out


@torch.no_grad()
def our_run(model: nn.Module, tokens: Tensor = TOKENS) -> dict[str, Tensor]:
    """The same of ours, under the same names."""
    with record(model, keep=lambda name: name.endswith("resid_post") or name in ("encoder.final", "logits")) as tape:
        called(model, tokens)
    return dict(tape.tensors)


def worst(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of any tensor, relative to that tensor's largest magnitude."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs)


def write(model: nn.Module, folder: Path, **how: Any) -> Path:
    model.save_pretrained(folder, **how)
    return folder
