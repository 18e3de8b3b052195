"""``python -m cutaway.serve [MODEL [--keep]]``: the worker's process, started by the server (supervisor.py).

Not worker.py itself: run as ``__main__`` its classes would exist twice, and an error of one kind not be of the other.
"""

from __future__ import annotations

import sys

from . import worker
from .models import Models

preferred = sys.argv[1] if len(sys.argv) > 1 else None
worker.serve(lambda tell: Models(tell, preferred, keep="--keep" in sys.argv[2:]))
