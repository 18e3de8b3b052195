"""Take the logit of the most probable next token and follow the largest of its terms, again and again, to a weight."""

import sys

import cutaway

text = " ".join(sys.argv[1:]) or "Once upon a time there was a"
model = cutaway.load("stories")
run = model.run(text)
best = int(run["logits[-1]"].argmax())

cell = f"logits[{len(run.tokens) - 1},{best}]"
while not cell.startswith("weights."):
    found = run.explain(cell)
    print(f"{found.value:12.6f}  {cell}: {len(found.terms)} terms, off by {abs(found.difference):.0e}")
    factors = max(found.terms, key=lambda term: abs(term.value)).factors
    cell = next((factor.cell for factor in factors if not factor.cell.startswith("weights.")), factors[0].cell)
print(f"{float(run[cell]):12.6f}  {cell}")
