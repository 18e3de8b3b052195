"""Write the run that the page paints before any model is loaded: web/stored and web/public/stored

    python tools/stored_run.py ["Once upon a time there was a"]

A real run of the bundled model, kept as the server would send it, and the model's vocabulary in readable form. Run it
again whenever the bundled model changes; the files are committed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import safetensors.torch

import cutaway
from cutaway.look import file

WEB = Path(__file__).resolve().parents[1] / "web"
RUN, WORDS = WEB / "stored/first.cutaway", WEB / "public/stored/first.vocabulary.json"
TEXT = "Once upon a time there was a"
# What the drawing shows; the stream itself, which only says how long it is (river), would be half the file.
SEEN = ("embed", "river", "final", "logits.last", "blocks.*.attn.pattern", "blocks.*.mlp.hidden")
# What an opened block says without a server: the kinds of its heads, and the lens of the last token.
SAID = ("blocks.*.attn.kinds", "blocks.*.attn.even", "lens.ids[-1]", "lens.p[-1]", "lens.final[-1]", "lens.rank[-1]")


def main(text: str = TEXT) -> None:
    model = cutaway.load("stories")
    record = model.run(text)
    numbers = {name: record[name] for name in record.matching(SEEN + SAID)}
    RUN.write_bytes(safetensors.torch.save(*file.pack(record, numbers)))
    texts = [piece.text for piece in model.tokenizer.pieces(list(range(model.tokenizer.size)))]
    WORDS.write_text(json.dumps(texts, ensure_ascii=False), "utf-8")
    for path in (RUN, WORDS):
        print(f"{path.name}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
