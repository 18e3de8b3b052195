"""Write tests/golden/sampler.json: small cases of the sampler with their exact results.

    python tools/golden_sampler.py

cutaway/generate/sampler.py and web/src/sampler.ts must both reproduce the file; tests/generate/test_golden.py also
recomputes it with plain Python arithmetic, so a mistake here does not become the truth. In the file a logit of minus
infinity is null, a seed is a decimal string (it may need 64 bits), ``kept`` lists the ids that can still be drawn.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cutaway.generate.sampler import Sampler, draw

OUT = Path(__file__).resolve().parents[1] / "tests" / "golden" / "sampler.json"

HOGWARTS = [-0.8, -5.0, 0.5, 1.5, 3.4, -2.3, 2.5]  # Dumbledore Flitwick McGonagall Quirrell Snape Sprout Trelawney
FALLING = [4.0, 3.5, 3.0, 2.25, 1.5, 0.75, 0.0, -1.0, -2.5, -6.0]
TIES = [1.0, 2.0, 2.0, 0.5, 2.0, 1.0, 2.0, -3.0]
HOLES = [None, 0.25, None, 1.75, -0.5, None, 1.75, None]
WAVE = [round(3 * math.sin(1.7 * i) + 2 * math.cos(0.31 * i * i), 3) for i in range(64)]
LARGE = [900.5, 899.0, -1200.0, 897.25, 0.0]

CASES: list[tuple[str, list[float | None], list[int], dict[str, Any]]] = [
    ("the model's own distribution", HOGWARTS, [], {}),
    ("temperature 0.5", HOGWARTS, [], {"temperature": 0.5}),
    ("temperature 2", HOGWARTS, [], {"temperature": 2}),
    ("temperature 5", HOGWARTS, [], {"temperature": 5}),
    ("temperature 10", HOGWARTS, [], {"temperature": 10}),
    ("temperature 0 is argmax", HOGWARTS, [], {"temperature": 0}),
    ("temperature 0 among ties takes the lowest id", TIES, [], {"temperature": 0}),
    ("a very small temperature does not overflow", HOGWARTS, [], {"temperature": 1e-9}),
    ("a very large temperature is nearly uniform", HOGWARTS, [], {"temperature": 1e9}),
    ("logits too large for a bare exp", LARGE, [], {}),
    ("one token", [0.3], [], {}),
    ("all equal", [0.0] * 8, [], {}),
    ("minus infinity is never drawn", HOLES, [], {}),
    ("one finite logit", [None, None, -7.5, None], [], {"temperature": 0.7, "top_k": 3, "top_p": 0.5, "min_p": 0.1}),
    ("top-k 3", FALLING, [], {"top_k": 3}),
    ("top-k 1", WAVE, [], {"top_k": 1}),
    ("top-k cuts ties by id", TIES, [], {"top_k": 3}),
    ("top-k larger than what is left", HOLES, [], {"top_k": 6}),
    ("top-k 0 keeps everything", FALLING, [], {"top_k": 0}),
    ("top-p 0.9", FALLING, [], {"top_p": 0.9}),
    ("top-p that one token fills", FALLING, [], {"top_p": 0.1}),
    ("top-p reached exactly", [0.0, 0.0, 0.0, 0.0], [], {"top_p": 0.5}),
    ("top-p cuts ties by id", TIES, [], {"top_p": 0.3}),
    ("top-p 1 keeps everything", FALLING, [], {"top_p": 1.0}),
    ("top-p over minus infinity", HOLES, [], {"top_p": 0.8}),
    ("min-p 0.1", FALLING, [], {"min_p": 0.1}),
    ("min-p 1 keeps the most probable and its equals", TIES, [], {"min_p": 1.0}),
    ("min-p 0 keeps everything", FALLING, [], {"min_p": 0}),
    ("repetition penalty on both signs, repeats once", HOGWARTS, [4, 0, 4, 4], {"repetition_penalty": 1.3}),
    ("repetition penalty below 1 rewards", FALLING, [9, 2], {"repetition_penalty": 0.5}),
    ("repetition penalty then argmax", HOGWARTS, [4], {"repetition_penalty": 2.0, "temperature": 0}),
    ("repetition penalty on minus infinity", HOLES, [0, 1, 2, 4], {"repetition_penalty": 1.5}),
    ("temperature before top-p keeps more", FALLING, [], {"temperature": 3, "top_p": 0.8}),
    ("top-k before top-p: the mass is renewed", FALLING, [], {"top_k": 4, "top_p": 0.8}),
    ("everything at once", WAVE, [3, 17, 17, 60],
     {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.2}),
]  # fmt: skip

DRAWS = [(0, 0), (0, 1), (1, 0), (7, 3), (42, 100), (2**32 - 1, 5), (2**64 - 1, 0), (-1, 2)]


def main() -> None:
    cases = [_case(*case) for case in CASES]
    text = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(f'{{"format": 1, "cases": [\n{text}\n]}}\n', encoding="utf-8")
    print(f"{OUT.name}: {len(cases)} cases")


def _case(name: str, logits: list[float | None], previous: list[int], settings: dict[str, Any]) -> dict[str, Any]:
    trace = Sampler(**settings).trace([-math.inf if x is None else x for x in logits], previous)
    return {
        "name": name,
        "logits": logits,
        "previous": previous,
        "settings": settings,
        "steps": [
            {"name": s.name, "setting": s.setting, "tokens_in": s.tokens_in, "cut": s.cut, "mass": s.mass}
            for s in trace.steps
        ],
        "kept": [i for i, p in enumerate(trace.probabilities.tolist()) if p > 0],
        "probabilities": trace.probabilities.tolist(),
        "draws": [
            {"seed": str(seed), "step": step, "u": u, "id": token}
            for seed, step in DRAWS
            for token, u in [draw(trace.probabilities, seed, step)]
        ],
    }


if __name__ == "__main__":
    main()
