"""The built page, held in memory and answered from a table of exact paths: there is no path to escape with."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from .gate import policy, sentence_page
from .problem import Problem

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".cutaway": "application/octet-stream",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
}
_PACKED = {".br": "br", ".gz": "gzip"}
_WORTH_PACKING = {".html", ".js", ".css", ".json", ".svg", ".map", ".webmanifest"}
_HASHED = re.compile(r"/assets/.+[-.][A-Za-z0-9_-]{8,}\.\w+")  # Vite: assets/index-BX3k2c9a.js

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


@dataclass
class File:
    """One file of the page and its forms: ``forms["br"]`` is its Brotli form, ``forms["identity"]`` the file itself."""

    kind: str
    cache: str
    packable: bool
    forms: dict[str, bytes] = field(default_factory=dict)
    tag: str = ""
    policy: str | None = None

    def form(self, accepted: str) -> tuple[str, bytes]:
        """The smallest form the client takes; gzip is made at the first request that wants it."""
        if "br" in self.forms and _takes(accepted, "br"):
            return "br", self.forms["br"]
        if _takes(accepted, "gzip"):
            if "gzip" not in self.forms and self.packable:
                self.forms["gzip"] = gzip.compress(self.forms["identity"], 6, mtime=0)
            if "gzip" in self.forms:
                return "gzip", self.forms["gzip"]
        return "identity", self.forms["identity"]


class Page:
    """The files under ``folder``, read once. An empty or missing folder is a page that says how to build one."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, File] = {}
        if folder.is_dir():
            self._read(folder)

    def _read(self, folder: Path) -> None:
        # followlinks is off in rglob: a link to a folder outside is not entered, and a linked file is left out.
        paths = {f"/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*"))}
        contents = {at: path for at, path in paths.items() if path.is_file() and not path.is_symlink()}
        for at, path in contents.items():
            encoding = _PACKED.get(path.suffix)
            if encoding and at.removesuffix(path.suffix) in contents:
                continue
            body = path.read_bytes()
            file = File(
                kind=_TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream",
                cache="public, max-age=31536000, immutable" if _HASHED.fullmatch(at) else "no-cache",
                packable=path.suffix in _WORTH_PACKING and len(body) > 1024,
                forms={"identity": body},
                tag=f'"{hashlib.sha256(body).hexdigest()[:20]}"',
            )
            for suffix, name in _PACKED.items():
                if f"{at}{suffix}" in contents:
                    file.forms[name] = contents[f"{at}{suffix}"].read_bytes()
            self.files[at] = file
        if (index := self.files.get("/index.html")) is not None:
            html = index.forms["identity"].decode("utf-8", "replace")
            index.policy = policy(_SCRIPT.findall(html), _STYLE.findall(html))

    async def answer(self, request: Request) -> Response:
        path = request.scope["path"]
        file = self.files.get("/index.html" if path == "/" else path)
        if file is None:
            if path == "/":
                return sentence_page(
                    503, ("The page has not been built.", "Run `make setup` in the repository, then start again.")
                )
            raise Problem(404, "There is nothing at this address.")
        return _answer(file, request.headers)


def _answer(file: File, headers: Headers) -> Response:
    encoding, body = file.form(headers.get("accept-encoding", ""))
    tag = file.tag if encoding == "identity" else f'{file.tag[:-1]}-{encoding}"'
    answer = {"Cache-Control": file.cache, "ETag": tag, "Vary": "Accept-Encoding"}
    if file.policy is not None:
        answer["Content-Security-Policy"] = file.policy
    if tag in (one.strip() for one in headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=answer)
    if encoding != "identity":
        answer["Content-Encoding"] = encoding
    return Response(body, headers={**answer, "Content-Type": file.kind})


def _takes(accepted: str, encoding: str) -> bool:
    """Whether an Accept-Encoding header names ``encoding`` and does not refuse it with ``q=0``."""
    for part in accepted.lower().split(","):
        name, _, weight = part.strip().partition(";")
        if name.strip() == encoding:
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
