"""Seeing: the Record of a run, and what can be read from it. Pure functions of a Record and weights."""

from .comparison import compare
from .file import open
from .record import ModelCard, Record, run

__all__ = ["ModelCard", "Record", "compare", "open", "run"]
