"""Encoders: BERT (Devlin et al. 2018), RoBERTa (Liu et al. 2019), XLM-R, CamemBERT, DistilBERT (Sanh et al. 2019).

One stack in which every token reads all, a norm on the stream behind each sublayer, learned positions. Which head
stands on it is what config.json's ``architectures`` says:

    ...ForMaskedLM                   every position -> the vocabulary, through one more layer
    ...ForSequenceClassification     the first position -> classes, through one more layer
    ...Model                         no head: the stream itself (sentence vectors)
"""

from __future__ import annotations

from ..errors import Refused
from ..model import spec
from . import Family
from .config import CLASSES, LARGEST, MOST_LAYERS, WIDEST, Config, layer_norm, shown
from .names import Names, Rule

MASKED = "ForMaskedLM"


def read_bert(c: Config) -> spec.Transformer:
    return _read_bert(c, c.activation("hidden_act", "gelu"), unused_rows=0)


def read_roberta(c: Config) -> spec.Transformer:
    # Positions are counted from behind the padding token's row.
    return _read_bert(c, "gelu", unused_rows=1 + c.integer("pad_token_id", 1, most=1000, least=0))


def _read_bert(c: Config, masked: str, unused_rows: int) -> spec.Transformer:
    """``masked``: the non-linearity before the vocabulary."""
    c.only("position_embedding_type", "absolute")
    c.only("is_decoder", False)
    return _encoder(
        c,
        width=c.integer("hidden_size", 768, most=WIDEST),
        heads=c.integer("num_attention_heads", 12, most=WIDEST),
        layers=c.integer("num_hidden_layers", 12, most=MOST_LAYERS),
        mlp=spec.MLP(c.integer("intermediate_size", 3072, most=WIDEST), c.activation("hidden_act", "gelu"), bias=True),
        norm=layer_norm(c, "layer_norm_eps", 1e-12),
        rows=c.integer("max_position_embeddings", 512, most=LARGEST),
        unused_rows=unused_rows,
        segments=c.integer("type_vocab_size", 2, most=1000),
        transforms=(masked, "tanh"),
    )


def read_distilbert(c: Config) -> spec.Transformer:
    # Sinusoidal position vectors are stored in the file like learned ones; the rest is training's, or long gone.
    c.ignore("sinusoidal_pos_embds", "dropout", "qa_dropout", "seq_classif_dropout", "output_past", "tie_weights_")
    activation = c.activation("activation", "gelu")
    return _encoder(
        c,
        width=c.integer("dim", 768, most=WIDEST),
        heads=c.integer("n_heads", 12, most=WIDEST),
        layers=c.integer("n_layers", 6, most=MOST_LAYERS),
        mlp=spec.MLP(c.integer("hidden_dim", 3072, most=WIDEST), activation, bias=True),
        norm=spec.Norm("layer", 1e-12),
        rows=c.integer("max_position_embeddings", 512, most=LARGEST),
        unused_rows=0,
        segments=0,
        transforms=(activation, "relu"),
    )


def _encoder(
    c: Config,
    *,
    width: int,
    heads: int,
    layers: int,
    mlp: spec.MLP,
    norm: spec.Norm,
    rows: int,
    unused_rows: int,
    segments: int,
    transforms: tuple[str, str],
) -> spec.Transformer:
    if width % heads:
        raise ValueError(f"a width of {width} is not a multiple of {heads} heads")
    context, vocabulary = rows - unused_rows, c.integer("vocab_size", most=LARGEST)
    attention = spec.Attention(heads, heads, width // heads, (width // heads) ** -0.5, bias="qkvo", causal=False)
    block = spec.Block(attention, mlp, norm, slots=("stream",))
    tied = c.flag("tie_word_embeddings", True)
    task = _task(c)
    head = None
    if task == MASKED:
        head = spec.Head(vocabulary, tied=tied, bias=True, transform=(transforms[0], norm))
    elif task == CLASSES:
        head = spec.Head(c.classes(), bias=True, transform=(transforms[1], None), pool="first")
    positions = spec.Positions("learned", context, unused_rows)
    stem = spec.Tokens(vocabulary, width, positions=positions, segments=segments, norm=norm)
    return spec.Transformer(stem, spec.Stack(width, (block,) * layers, None), head, context)


def _task(c: Config) -> str | None:
    """What stands on the encoder; None where nothing does. Raises Refused for a head that is not read yet."""
    name = c.architecture()
    if name.endswith("ForPreTraining"):  # BERT's own training: a masked head and one for sentence order
        return MASKED
    for task in (MASKED, CLASSES):
        if name.endswith(task):
            return task
    if name.endswith("Model"):
        return None
    raise Refused(
        f"config.json says architectures = {shown(c.peek('architectures'))}, a head that Cutaway does not read yet.",
        f"Read are encoders that end in {MASKED}, {CLASSES} or Model.",
    )


BERT = {
    "embeddings.word_embeddings": "stem.tokens",
    "embeddings.position_embeddings": "stem.positions",
    "embeddings.token_type_embeddings": "stem.segments",
    "embeddings.LayerNorm": "stem.norm",
    "encoder.layer.{}.attention.self.query": "stack.blocks.{}.attn.q",
    "encoder.layer.{}.attention.self.key": "stack.blocks.{}.attn.k",
    "encoder.layer.{}.attention.self.value": "stack.blocks.{}.attn.v",
    "encoder.layer.{}.attention.output.dense": "stack.blocks.{}.attn.o",
    "encoder.layer.{}.attention.output.LayerNorm": "stack.blocks.{}.attn.stream",
    "encoder.layer.{}.intermediate.dense": "stack.blocks.{}.mlp.up",
    "encoder.layer.{}.output.dense": "stack.blocks.{}.mlp.down",
    "encoder.layer.{}.output.LayerNorm": "stack.blocks.{}.mlp.stream",
}
DISTILBERT = {
    "embeddings.word_embeddings": "stem.tokens",
    "embeddings.position_embeddings": "stem.positions",
    "embeddings.LayerNorm": "stem.norm",
    "transformer.layer.{}.attention.q_lin": "stack.blocks.{}.attn.q",
    "transformer.layer.{}.attention.k_lin": "stack.blocks.{}.attn.k",
    "transformer.layer.{}.attention.v_lin": "stack.blocks.{}.attn.v",
    "transformer.layer.{}.attention.out_lin": "stack.blocks.{}.attn.o",
    "transformer.layer.{}.sa_layer_norm": "stack.blocks.{}.attn.stream",
    "transformer.layer.{}.ffn.lin1": "stack.blocks.{}.mlp.up",
    "transformer.layer.{}.ffn.lin2": "stack.blocks.{}.mlp.down",
    "transformer.layer.{}.output_layer_norm": "stack.blocks.{}.mlp.stream",
}


def _names(
    base: str, encoder: dict[str, str], masked: dict[str, str], classes: dict[str, str], s: spec.Transformer
) -> Names:
    """The table of an encoder and of the head it has; a pooler or another head that nobody reads is dead."""
    head = {} if s.head is None else classes if s.head.pool else masked
    before = "" if s.head is None else base
    rules = [Rule(before + theirs, (ours,)) for theirs, ours in encoder.items()]
    rules += [Rule(theirs, (ours,)) for theirs, ours in head.items()]
    unread = {f"{base}pooler.dense", "cls.seq_relationship", "cls.predictions.bias", "lm_head.bias", *masked, *classes}
    unread -= head.keys()
    dead = (f"{base}embeddings.position_ids", *(x if x.endswith(".bias") else f"{x}.{{}}" for x in sorted(unread)))
    # Old files call a norm's weight and bias gamma and beta; the vocabulary's bias may stand in the file twice.
    return Names(base, rules, dead, spellings={"gamma": "weight", "beta": "bias"}, twice=("head.out.bias",))


def _unembedding(s: spec.Transformer, place: str) -> dict[str, str]:
    """A tied unembedding has its bias beside it, and perhaps once more as its own; an untied one has its own alone."""
    if s.head is not None and s.head.tied:
        return {f"{place}.bias": "head.out.bias", f"{place}.decoder": "head.out"}
    return {f"{place}.decoder": "head.out"}


def names_bert(s: spec.Transformer) -> Names:
    masked = {
        "cls.predictions.transform.dense": "head.dense",
        "cls.predictions.transform.LayerNorm": "head.norm",
        **_unembedding(s, "cls.predictions"),
    }
    return _names("bert.", BERT, masked, {"bert.pooler.dense": "head.dense", "classifier": "head.out"}, s)


def names_roberta(s: spec.Transformer) -> Names:
    masked = {
        "lm_head.dense": "head.dense",
        "lm_head.layer_norm": "head.norm",
        **_unembedding(s, "lm_head"),
    }
    classes = {"classifier.dense": "head.dense", "classifier.out_proj": "head.out"}
    return _names("roberta.", BERT, masked, classes, s)


def names_distilbert(s: spec.Transformer) -> Names:
    masked = {
        "vocab_transform": "head.dense",
        "vocab_layer_norm": "head.norm",
        "vocab_projector": "head.out",
    }
    return _names("distilbert.", DISTILBERT, masked, {"pre_classifier": "head.dense", "classifier": "head.out"}, s)


FAMILIES = [
    Family("bert", read_bert, names_bert),
    Family("roberta", read_roberta, names_roberta),
    Family("xlm-roberta", read_roberta, names_roberta),
    Family("camembert", read_roberta, names_roberta),
    Family("distilbert", read_distilbert, names_distilbert),
]
