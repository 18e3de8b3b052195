"""Record one run, ask which token each head of a block looks back to, save it, open it again without the model."""

import sys
import tempfile
from pathlib import Path

import cutaway

text = " ".join(sys.argv[1:]) or "The dog chased the cat, and the cat"
model = cutaway.load("stories")
run = model.run(text)
print(f"{len(run.names())} tensors have names, {', '.join(run.names()[:3])} among them.")

pieces = [piece.text for piece in model.pieces(text)]
pattern = run["blocks.2.attn.pattern"]  # (H, T, T): head, the token that asks, the token that is looked at
print(f"Where {pieces[-1]!r} looks in block 2:")
for head, row in enumerate(pattern[:, -1]):
    strongest = int(row.argmax())
    print(f"  head {head}: {row[strongest]:6.1%} to {pieces[strongest]!r}, token {strongest}")

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "run.cutaway"
    run.save(file)
    again = cutaway.open(file)
    print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB; equal when opened again:", end=" ")
    print(bool((again["blocks.2.attn.pattern"] == pattern).all()))
