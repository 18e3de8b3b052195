"""How fast a translation is written with four beams: ours beside `transformers`, in turn, in one process.

    python benchmarks/translate.py [--tokens 40] [--texts 5] [--threads 2]

A random model of the shape of OPUS-MT (width 512, 6 + 6 blocks, 58,101 tokens), in float32 on the CPU, sources of 25
tokens, always as many tokens written as --tokens says. Prints the median of each, their ratio, and the share of what
the hardware allows, which reads every weight of the decoder once for each token; ends with an error when the two wrote
different tokens.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
import transformers
from turns import OURS, THEIRS, hardware, in_turn, report

import cutaway

END, PAD, BEAMS = 0, 58100, 4


def random_marian() -> transformers.MarianMTModel:
    torch.manual_seed(0)
    return transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=58101, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
            decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, max_position_embeddings=512,
            activation_function="swish", scale_embedding=True, eos_token_id=END, pad_token_id=PAD,
            decoder_start_token_id=PAD, init_std=0.1,
        )
    ).eval()  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--texts", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    transformers.logging.set_verbosity_error()
    reference = random_marian()
    reference.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=PAD, eos_token_id=END, pad_token_id=PAD, num_beams=BEAMS, bad_words_ids=[[PAD]],
        max_new_tokens=asked.tokens, min_new_tokens=asked.tokens,
    )  # fmt: skip
    folder = tempfile.TemporaryDirectory()  # it holds generation_config.json, which is read when a text comes
    reference.save_pretrained(folder.name)
    ours = cutaway.load(folder.name)
    texts = torch.randint(1, PAD, (asked.texts + 1, 25), generator=torch.Generator().manual_seed(0))

    def theirs(source: torch.Tensor) -> list[int]:
        return reference.generate(source[None], attention_mask=torch.ones(1, len(source)))[0, 1:].tolist()

    workers = {THEIRS: theirs, OURS: lambda source: ours.translate(tokens=source.tolist()).tokens}
    _, bandwidth = hardware()
    decoder = sum(parameter.numel() for parameter in reference.model.decoder.parameters())
    medians = in_turn(workers, list(texts), lambda a, b: a == b)
    limit = asked.tokens * 4 * decoder / bandwidth
    report(f"{asked.tokens} tokens with {BEAMS} beams, OPUS-MT's shape", medians, 2.0, limit)


if __name__ == "__main__":
    main()
