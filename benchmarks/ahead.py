"""How much faster texts are written when somebody guesses ahead: what `cutaway generate --draft` does.

    python benchmarks/ahead.py MODEL [--draft prompt] [--quantize int8] [--draft-quantize int4] [--turns 5]

Without guesses and with them in turn, 200 new tokens each: after a story's beginning, and after a list that goes on as
it began, at temperatures 0 and 1. Prints medians of tokens/s and of their ratio, and how many guesses came.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import cutaway

TEXTS = {
    "story": "Once upon a time there was a little girl who lived in the wood",
    "list": "1. The dog and the cat.\n2. The dog and the cow.\n3. The dog and the cat.\n4. The dog",
}


def rate(model: cutaway.Model, text: str, temperature: float, seed: int, draft: Any) -> tuple[float, Any]:
    """Tokens a second, the first, and the reading of the prompt, left out."""
    steps: Any = model.generate(text, max_new_tokens=200, temperature=temperature, seed=seed, draft=draft, stream=True)
    next(steps)
    began = time.perf_counter()
    return sum(1 for _ in steps) / (time.perf_counter() - began), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a folder")
    parser.add_argument("--draft", default="prompt")
    parser.add_argument("--quantize")
    parser.add_argument("--draft-quantize")
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    model = cutaway.load(asked.model, quantize=asked.quantize)
    draft = asked.draft if asked.draft == "prompt" else cutaway.load(asked.draft, quantize=asked.draft_quantize)
    rate(model, TEXTS["story"], 0, 0, draft)  # to warm up
    for name, text in TEXTS.items():
        for temperature in (0, 1):
            plain, ahead, proposed, accepted = [], [], 0, 0
            for turn in range(asked.turns):
                alone, first = rate(model, text, temperature, turn, None)
                guessed, second = rate(model, text, temperature, turn, draft)
                assert first.tokens == second.tokens or asked.quantize is None
                plain.append(alone)
                ahead.append(guessed)
                proposed, accepted = proposed + second.tally.proposed, accepted + second.tally.accepted
            ratio = statistics.median(b / a for a, b in zip(plain, ahead, strict=True))
            print(
                f"{name}, temperature {temperature}: {statistics.median(plain):.1f} tokens/s, "
                f"{statistics.median(ahead):.1f} with guesses, {ratio:.2f} times; {accepted} of {proposed} came"
            )


if __name__ == "__main__":
    main()
