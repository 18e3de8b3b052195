"""``python -m cutaway.serve [MODEL [--keep] [quantize=int8 ...]]``: the worker's process, which supervisor.py starts.

Not worker.py itself: run as ``__main__`` its classes would exist twice, and an error of one kind not be of the other.
"""

from __future__ import annotations

import sys

from . import worker
from .models import How, Models

preferred = sys.argv[1] if len(sys.argv) > 1 else None
how = How(**dict(word.split("=", 1) for word in sys.argv[2:] if word != "--keep"))
worker.serve(lambda tell: Models(tell, preferred, keep="--keep" in sys.argv[2:], how=how))
