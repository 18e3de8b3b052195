"""Print how far ours is from the reference for tiny random models of every family (needs transformers).

    python -m tools.parity        (from the repository's root)

The figure is the largest difference at any block's output or at the logits, relative to that tensor's largest
magnitude, in float32. tests/families/test_parity.py holds it below 1e-5.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import transformers

from cutaway.families import checkpoint
from tests.families.reference import our_run, reference_model, reference_run, worst, write
from tests.families.variants import VARIANTS


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for variant in VARIANTS:
        model = reference_model(variant)
        with tempfile.TemporaryDirectory() as folder:
            ours = checkpoint.open(write(model, Path(folder))).load()
        print(f"{worst(our_run(ours), reference_run(model)):.1e}  {variant}")


if __name__ == "__main__":
    main()
