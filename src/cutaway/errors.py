"""What can go wrong, as the user meets it: one sentence that names the thing, one that says what to do.

Each class carries the exit code the command line ends with (docs/cli.md).
"""

from __future__ import annotations


class CutawayError(Exception):
    """Base of every error a user is meant to read.

    ``message`` names what went wrong; ``fix`` says what to do about it (may be empty).
    """

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(f"{message} {fix}".strip())
        self.message = message
        self.fix = fix


class Failed(CutawayError):
    """The work was understood and begun, and did not succeed."""

    exit_code = 1


class Misuse(CutawayError):
    """The request itself makes no sense: an option out of range, an empty text."""

    exit_code = 2


class NotFound(CutawayError):
    """A model, file or record that is not there (or cannot be reached offline)."""

    exit_code = 3


class Refused(CutawayError):
    """A file that is unsafe, corrupt or not understood; nothing of it was used."""

    exit_code = 4
