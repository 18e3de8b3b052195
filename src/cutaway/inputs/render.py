"""Render one chat template, in a process of its own: `python -I render.py < request > answer`.

A template is a program from the internet. It runs here in jinja2's immutable sandbox, under limits on processor time,
memory and output, with nothing of the parent's environment; the parent adds a limit on wall time (chat.py).
The surroundings are those `transformers` gives its templates, so that both render the same text.

Request and answer are JSON: {"template", "variables", "limits": {"seconds", "bytes", "characters"}} gives
{"text"}, or {"error", "by_template"}, where by_template tells that the template itself raised it.
"""

import contextlib
import datetime
import json
import sys


class Complaint(Exception):
    """What a template says by raise_exception()."""


def limit(seconds, memory):
    """Lower this process's own limits, where the system has them (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 64 * 2**20),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
            resource.setrlimit(what, (most, most))


def environment():
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks the assistant's words for training; for rendering it is transparent."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_as_is"), [], [], body).set_lineno(line)

        def _as_is(self, caller):
            return caller()

    def raise_exception(message):
        raise Complaint(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        # jinja2's own escapes HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


def answer(request):
    limits = request["limits"]
    try:
        env = environment()
        limit(limits["seconds"], limits["bytes"])
        parts, length = [], 0
        for part in env.from_string(request["template"]).generate(**request["variables"]):
            length += len(part)
            if length > limits["characters"]:
                return {"error": f"it writes more than {limits['characters']:,} characters", "by_template": False}
            parts.append(part)
        text = "".join(parts)
        text.encode()  # a lone surrogate cannot leave
        return {"text": text}
    except Complaint as error:
        return {"error": str(error)[:500], "by_template": True}
    except MemoryError:
        return {"error": "it needs more memory than it may have", "by_template": False}
    except RecursionError:
        return {"error": "it is nested too deeply", "by_template": False}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500], "by_template": False}


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin.buffer)), sys.stdout)
