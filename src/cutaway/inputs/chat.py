"""Chat templates: a conversation rendered to text by the checkpoint's own jinja2 program, held at arm's length.

The template writes control tokens ("<|im_start|>") and the users' words into one string. To tell the two apart
afterwards, control strings inside messages are wrapped in marks before rendering: wrapped ones are text.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cutaway.errors import Failed, Misuse, NotFound, Refused

from .engines import Segment
from .guard import read_text

MAX_TEMPLATE_BYTES = 2**20
CPU_SECONDS = 5
WALL_SECONDS = 15.0
MEMORY_BYTES = 2**30

FIX = "Use another template, or give plain text instead of messages."
RENDERER = Path(__file__).with_name("render.py")


def template_of(folder: Path, config: dict[str, Any]) -> str:
    """The checkpoint's template: chat_template.jinja, else "chat_template" of tokenizer_config.json.

    What is wrong with it is said without the folder: a server says it to others.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return read_text(file, MAX_TEMPLATE_BYTES)
        except Refused as error:
            raise Refused(error.message.replace(str(file), file.name), FIX) from None
    template = config.get("chat_template")
    if isinstance(template, list):  # the older form: [{"name": ..., "template": ...}, ...]
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default") or (next(iter(named.values())) if len(named) == 1 else None)
        if template is None:
            names = ", ".join(map(repr, named))
            raise NotFound(f"There are chat templates {names}, but none called 'default'.", FIX)
    if template is None:
        raise NotFound(
            "There is no chat template: the model was not made for conversations.",
            "Give plain text instead of messages.",
        )
    if not isinstance(template, str) or len(template) > MAX_TEMPLATE_BYTES:
        raise Refused(f"The chat template is not a text of at most {MAX_TEMPLATE_BYTES:,} characters.", FIX)
    return template


def render(
    template: str, messages: list[Any], variables: dict[str, Any], control: Collection[str], max_characters: int
) -> list[Segment]:
    """The rendered chat as segments: control tokens the template wrote, and text.

    ``control``: the strings of control tokens. Raises Misuse with the template's own words when it objects to the
    messages; Refused when it breaks, breaks out, or takes more than its share of time, memory or space.
    """
    if not all(isinstance(message, dict) for message in messages):
        raise Misuse("A message is not an object.", 'Give messages as [{"role": "user", "content": "..."}].')
    try:
        open_, close = _unused_marks(json.dumps(messages, ensure_ascii=False))
        controls = "|".join(map(re.escape, sorted(control, key=len, reverse=True))) or "(?!)"
        marked = _map_strings(messages, lambda text: re.sub(controls, f"{open_}\\g<0>{close}", text))
        request = {
            "template": template,
            "variables": {"tools": None, "documents": None, **variables, "messages": marked},
            "limits": {"seconds": CPU_SECONDS, "bytes": MEMORY_BYTES, "characters": 2 * max_characters},
        }
        sent = json.dumps(request)
    except (TypeError, ValueError, RecursionError) as error:
        raise Misuse(f"The messages cannot be written as JSON: {error}.", "Use texts, numbers and lists.") from None
    rendered = _in_a_process_of_its_own(sent)
    if len(rendered) > max_characters:
        raise Misuse(
            f"The conversation has {len(rendered):,} characters; at most {max_characters:,} are read.", "Shorten it."
        )
    return _segments(rendered, controls, open_, close)


def _segments(rendered: str, controls: str, open_: str, close: str) -> list[Segment]:
    segments: list[Segment] = []
    position = 0
    for match in re.finditer(f"{open_}({controls}){close}|[{open_}{close}]|({controls})", rendered):
        typed, written = match.groups()
        segments += [Segment(rendered[position : match.start()], False), Segment(typed or written or "", bool(written))]
        position = match.end()
    segments.append(Segment(rendered[position:], False))
    return [segment for segment in segments if segment.text]


def _in_a_process_of_its_own(request: str) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    with tempfile.TemporaryFile() as sent, tempfile.TemporaryFile() as received:
        sent.write(request.encode())
        sent.seek(0)
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(RENDERER)],
                stdin=sent,
                stdout=received,
                stderr=subprocess.DEVNULL,
                timeout=WALL_SECONDS,
                env=kept,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"The chat template was still at work after {WALL_SECONDS:g} seconds.", FIX) from None
        except OSError as error:
            raise Failed(f"The process that renders chat templates did not start: {error.strerror}.") from error
        received.seek(0)
        written = received.read()
    if done.returncode != 0:
        raise Refused(f"The chat template used up its {CPU_SECONDS} seconds of computing, or its memory.", FIX)
    answer = json.loads(written)
    if "text" in answer:
        return str(answer["text"])
    if answer["by_template"]:
        raise Misuse(f"The chat template objects: {answer['error']}", "Change the messages to what it asks for.")
    raise Refused(f"The chat template cannot be used: {answer['error'].rstrip('.')}.", FIX)


def _unused_marks(text: str) -> tuple[str, str]:
    """Two of Unicode's noncharacters, kept for internal use like this one, that ``text`` does not hold."""
    free = [mark for mark in map(chr, range(0xFDD0, 0xFDF0)) if mark not in text]
    if len(free) < 2:
        raise Misuse("The messages hold every one of the noncharacters U+FDD0 to U+FDEF.", "Take them out.")
    return free[0], free[1]


def _map_strings(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_strings(child, change) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(child, change) for child in value]
    return value
