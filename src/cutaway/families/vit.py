"""Models of images: ViT (Dosovitskiy et al. 2020), DeiT with its distillation token (Touvron et al. 2020).

An image is cut into square patches, each becomes a vector, and learned vectors stand before them; then an encoder with
norms before its sublayers. Which head stands on it is what config.json's ``architectures`` says:

    ...ForImageClassification               the first position -> classes
    ...ForImageClassificationWithTeacher    the first two, each with a head of its own, averaged
    ...Model                                no head: the stream itself
"""

from __future__ import annotations

from typing import Literal

from ..errors import Refused
from ..model import spec
from . import Family
from .config import MOST_LAYERS, WIDEST, Config, layer_norm, shown
from .names import BATCH_OF_ONE, Names, Rule

LARGEST_SIDE = 2**14  # pixels; the largest of published models are below a thousand
HEADS: dict[str, Literal["first", "first_two"]] = {
    "ForImageClassification": "first",
    "ForImageClassificationWithTeacher": "first_two",
}


def read_vit(c: Config) -> spec.Transformer:
    return _read(c, extra_tokens=1)


def read_deit(c: Config) -> spec.Transformer:
    return _read(c, extra_tokens=2)


def _read(c: Config, extra_tokens: int) -> spec.Transformer:
    """``extra_tokens``: how many learned vectors stand before the patches."""
    width = c.integer("hidden_size", 768, most=WIDEST)
    heads = c.integer("num_attention_heads", 12, most=WIDEST)
    if width % heads:
        raise ValueError(f"a width of {width} is not a multiple of {heads} heads")
    c.only("head_dim", width // heads)
    c.ignore("encoder_stride", "pooler_output_size", "pooler_act")  # of the decoder and the pooler, which are not read
    bias = "qkvo" if c.flag("qkv_bias", True) else "o"
    norm = layer_norm(c, "layer_norm_eps", 1e-12)
    attention = spec.Attention(heads, heads, width // heads, (width // heads) ** -0.5, bias, causal=False)
    mlp = spec.MLP(c.integer("intermediate_size", 3072, most=WIDEST), c.activation("hidden_act", "gelu"), bias=True)
    layers = c.integer("num_hidden_layers", 12, most=MOST_LAYERS)
    stem = spec.Patches(
        width,
        image=_side(c, "image_size", 224),
        patch=_side(c, "patch_size", 16),
        channels=c.integer("num_channels", 3, most=1000),
        extra_tokens=extra_tokens,
    )
    stack = spec.Stack(width, (spec.Block(attention, mlp, norm),) * layers, norm)
    pool = _pool(c)
    head = None if pool is None else spec.Head(c.classes(), bias=True, pool=pool)
    return spec.Transformer(stem, stack, head, stem.length)


def _side(c: Config, key: str, default: int) -> int:
    """The side of a square in pixels, which may be written as [side, side]. Raises Refused for what is no square."""
    stated = c.peek(key)
    if not isinstance(stated, list):
        return int(c.integer(key, default, most=LARGEST_SIDE))
    if len(stated) != 2 or stated[0] != stated[1]:
        raise Refused(
            f"config.json says {key} = {shown(stated)}, which is no square.", "Read are models of square images."
        )
    c.ignore(key)
    return int(Config({key: stated[0]}).integer(key, most=LARGEST_SIDE))


def _pool(c: Config) -> Literal["first", "first_two"] | None:
    """What the head reads; None where there is no head. Raises Refused for a head that is not read yet."""
    name = c.architecture()
    for end, pool in HEADS.items():
        if name.endswith(end):
            return pool
    if name.endswith("Model"):
        return None
    raise Refused(
        f"config.json says architectures = {shown(c.peek('architectures'))}, a head that Cutaway does not read yet.",
        f"Read are models of images that end in {', '.join(HEADS)} or Model.",
    )


ENCODER = {
    "embeddings.patch_embeddings.projection": "stem.patch",
    "encoder.layer.{}.attention.attention.query": "stack.blocks.{}.attn.q",
    "encoder.layer.{}.attention.attention.key": "stack.blocks.{}.attn.k",
    "encoder.layer.{}.attention.attention.value": "stack.blocks.{}.attn.v",
    "encoder.layer.{}.attention.output.dense": "stack.blocks.{}.attn.o",
    "encoder.layer.{}.layernorm_before": "stack.blocks.{}.attn.pre",
    "encoder.layer.{}.intermediate.dense": "stack.blocks.{}.mlp.up",
    "encoder.layer.{}.output.dense": "stack.blocks.{}.mlp.down",
    "encoder.layer.{}.layernorm_after": "stack.blocks.{}.mlp.pre",
    "layernorm": "stack.norm",
}
LEARNED = {
    "embeddings.cls_token": "stem.extra.0.weight",
    "embeddings.distillation_token": "stem.extra.1.weight",
    "embeddings.position_embeddings": "stem.positions.weight",
}
CLASSIFIERS = {
    None: {},
    "first": {"classifier": "head.out"},
    "first_two": {"cls_classifier": "head.out", "distillation_classifier": "head.second"},
}


def _names(base: str, s: spec.Transformer) -> Names:
    """The table of an encoder and of the head it has; a pooler or a head that nobody reads is dead."""
    before = "" if s.head is None else base
    head = CLASSIFIERS[None if s.head is None else s.head.pool]
    rules = [Rule(before + theirs, (ours,)) for theirs, ours in ENCODER.items()]
    rules += [Rule(before + theirs, (ours,), BATCH_OF_ONE) for theirs, ours in LEARNED.items()]
    rules += [Rule(theirs, (ours,)) for theirs, ours in head.items()]
    unread = {f"{base}pooler.dense", *(name for each in CLASSIFIERS.values() for name in each)} - head.keys()
    return Names(base, rules, (f"{base}embeddings.mask_token", *(f"{name}.{{}}" for name in sorted(unread))))


def names_vit(s: spec.Transformer) -> Names:
    return _names("vit.", s)


def names_deit(s: spec.Transformer) -> Names:
    return _names("deit.", s)


FAMILIES = [Family("vit", read_vit, names_vit), Family("deit", read_deit, names_deit)]
