"""Predict, sample, repeat: the text as it grows. The same seed draws the same tokens on every machine."""

import sys

import cutaway

text = " ".join(sys.argv[1:]) or "Once upon a time there was a"
model = cutaway.load("stories")

print(text, end="")
for step in model.generate(text, max_new_tokens=60, temperature=0.8, top_p=0.95, seed=7, stream=True):
    print(step.text, end="", flush=True)
print()
