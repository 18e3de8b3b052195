"""How fast encoders, vision models and models of speech are: ours beside `transformers`, in turn, in one process.

    python benchmarks/kinds.py [--parts sentences images speech] [--turns 5] [--threads 1]

Random models in float32 on the CPU, of the shapes of all-MiniLM-L6-v2 (32 sentences of 4 to 120 tokens to vectors, in
one batch of the reference's), of ViT-B/16 (one image of 224 pixels to a thousand classes), and of Whisper tiny (30 s of
sound to 100 tokens, as people speak, language told). Prints for each the median of --turns, the ratio, and the share of
what the hardware allows: its arithmetic at the rate of a large matrix product, and for each token written its weights
read once. Ends with an error where the two say different things. benchmarks/translate.py does the same for a
translation.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from turns import OURS, THEIRS, hardware, in_turn, report

import cutaway
from cutaway.tasks.sentences import Pooling, embed

END, START, EN, TASK, UNTIMED, WRITTEN = 50257, 50258, 50259, 50359, 50363, 100


def load(reference: Any) -> Any:
    """The same weights, as Cutaway reads them."""
    folder = tempfile.mkdtemp()
    reference.save_pretrained(folder)
    return cutaway.load(Path(folder))


def parameters(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters() if parameter.dim() > 1)


def sentences(turns: int, flops: float, _: float) -> None:
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=512, initializer_range=0.2,
    )  # fmt: skip
    reference = transformers.BertModel(config, add_pooling_layer=False).eval()
    ours = load(reference)
    rng = random.Random(0)
    lengths = [int(4 * 30 ** rng.random()) for _ in range(32)]
    inputs = [[[rng.randrange(1000, 30_000) for _ in range(length)] for length in lengths] for _ in range(turns + 1)]

    @torch.no_grad()
    def theirs(texts: list[list[int]]) -> torch.Tensor:
        longest = max(lengths)
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in texts])
        there = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in texts])
        stream = reference(input_ids=ids, attention_mask=there).last_hidden_state
        return (stream * there[..., None]).sum(1) / there.sum(1, keepdim=True)

    workers = {THEIRS: theirs, OURS: lambda texts: embed(ours.machine, texts, Pooling())}
    medians = in_turn(workers, inputs, lambda a, b: torch.allclose(a, b, atol=1e-3))
    limit = 2 * parameters(reference.encoder) * sum(lengths) / flops
    report(f"32 sentences, {sum(lengths)} tokens, MiniLM's shape", medians, 1.3, limit)


def images(turns: int, flops: float, _: float) -> None:
    config = transformers.ViTConfig(num_labels=1000, initializer_range=0.05)
    reference = transformers.ViTForImageClassification(config).eval()
    ours = load(reference)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, 3, 224, 224, generator=generator) for _ in range(turns + 1)]

    @torch.no_grad()
    def theirs(pixels: torch.Tensor) -> torch.Tensor:
        return reference(pixels).logits

    workers = {THEIRS: theirs, OURS: torch.no_grad()(lambda pixels: ours.machine(pixels))}
    medians = in_turn(workers, inputs, lambda a, b: torch.allclose(a, b, atol=1e-3))
    report("one image, ViT-B/16's shape", medians, 1.1, 2 * parameters(reference.vit.layers) * 197 / flops)


def speech(turns: int, flops: float, bandwidth: float) -> None:
    reference = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(init_std=0.1)).eval()
    reference.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=START, eos_token_id=END, pad_token_id=END, bos_token_id=END, max_new_tokens=WRITTEN,
        no_timestamps_token_id=UNTIMED, suppress_tokens=[END], begin_suppress_tokens=[220, END],
        lang_to_id={"<|en|>": EN}, task_to_id={"transcribe": TASK}, is_multilingual=True,
    )  # fmt: skip
    ours = load(reference)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(0, 0.1, 480_000).astype(np.float32) for _ in range(turns + 1)]
    extract = transformers.WhisperFeatureExtractor()

    @torch.no_grad()
    def theirs(sound: np.ndarray) -> list[int]:
        heard = extract(sound, sampling_rate=16_000, return_tensors="pt").input_features
        return reference.generate(heard, language="en", return_timestamps=False)[0].tolist()[-WRITTEN:]

    workers = {
        THEIRS: theirs,
        OURS: lambda sound: ours.transcribe(sound, language="en", temperature=0).segments[0].tokens[-WRITTEN:],
    }
    medians = in_turn(workers, inputs, lambda a, b: a == b)
    encoder, decoder = reference.model.encoder, reference.model.decoder
    heard = 2 * parameters(*encoder.layers) * 1500 + 4 * 1500**2 * 384 * len(encoder.layers)
    report(
        "30 s of sound to 100 tokens, Whisper tiny's shape",
        medians,
        1.5,
        heard / flops + WRITTEN * 4 * parameters(decoder) / bandwidth,
    )


PARTS = {"sentences": sentences, "images": images, "speech": speech}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    flops, bandwidth = hardware()
    print(f"{flops / 1e9:.1f} GFLOP/s in a matrix product, {bandwidth / 1e9:.1f} GB/s read")
    for part in asked.parts:
        PARTS[part](asked.turns, flops, bandwidth)


if __name__ == "__main__":
    main()
