"""Write the run that the page paints before any model is loaded: web/public/stored/first.*

    python tools/stored_run.py ["Once upon a time there was a"]

A real run of the bundled model, kept as the server would send it, and the model's vocabulary in readable form. Run it
again whenever the bundled model changes; the files are committed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cutaway

STORED = Path(__file__).resolve().parents[1] / "web/public/stored"
TEXT = "Once upon a time there was a"
STREAM = ("embed", "blocks.*.resid_pre", "blocks.*.resid_mid", "blocks.{last}.resid_post", "final")
SEEN = ("blocks.*.attn.pattern", "blocks.*.mlp.hidden")


def main(text: str = TEXT) -> None:
    model = cutaway.load("stories")
    last = len(model.spec.stack.blocks) - 1
    record = model.run(text, keep=[name.format(last=last) for name in STREAM + SEEN])
    STORED.mkdir(parents=True, exist_ok=True)
    record.save(STORED / "first.cutaway", include="river")
    texts = [piece.text for piece in model.tokenizer.pieces(list(range(model.tokenizer.size)))]
    (STORED / "first.vocabulary.json").write_text(json.dumps(texts, ensure_ascii=False), "utf-8")
    for path in sorted(STORED.iterdir()):
        print(f"{path.name}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
