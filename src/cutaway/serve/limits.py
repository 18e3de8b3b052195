"""Every bound of the server in one place; docs/server.md shows them as a table, and a test holds the two equal."""

from __future__ import annotations

from dataclasses import dataclass

MiB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request, one client or one record may cost. Sizes in bytes, times in seconds."""

    header_seconds: float = 10  # from the first byte of a connection or request to the end of its headers
    body_bytes: int = 2 * MiB  # thirty seconds of sound, as base64
    body_seconds: float = 10  # from the headers to the last byte of the body
    text_characters: int = 100_000
    tokens: int = (
        4_096  # a model's own context may be smaller. Of a longer text the end is read, and the record says so
    )
    wants: int = 64  # entries of "want", each a glob
    name_characters: int = 200
    terms: int = 100_000  # of the explanation of one cell
    answer_bytes: int = 64 * MiB
    record_bytes: int = 1024 * MiB  # one run
    kept_bytes: int = 256 * MiB  # all records kept for slices, together; the newest is kept whatever it takes
    models_bytes: int = 2048 * MiB  # weights of all models kept loaded; the newest is kept whatever it takes
    queue: int = 16  # requests waiting for the model
    streams: int = 16  # pages listening to /api/events
    requests: int = 64  # of the OpenAI-compatible API under way, waiting ones included
    choices: int = 64  # texts one such request may ask for: its prompts times n
    parts: int = 2_048  # tokens written ahead of a client that reads slowly
    write_seconds: float = 600  # from such a request to its last token, waiting included
    step_seconds: float = 120  # without one step of what is written, until the process that writes is taken to hang
    read_seconds: float = 30  # for a client to read what has been sent, until its connection is closed
    connections: int = 256
    run_seconds: float = 60  # from the request to its answer, waiting included
    load_seconds: float = 600
    grace_seconds: float = 3  # for a cancelled run to stop by itself before its process is killed
    keep_alive_seconds: float = 15  # between two comments on a silent event stream
