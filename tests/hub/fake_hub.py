"""A hub on 127.0.0.1: a folder of repositories, served as the Hugging Face hub serves them, with faults on request.

``slow``: seconds between two pieces; ``cut``: a file's body ends after so many bytes, once; ``damaged``: it arrives
with other bytes than the hash says; ``deaf``: ranges are ignored. ``asked`` lists what was fetched, from which byte on.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REVISION = "0123456789abcdef0123456789abcdef01234567"
PIECE = 1 << 14


class FakeHub:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slow, self.cut, self.damaged, self.deaf = 0.0, None, False, False
        self.asked: list[tuple[str, int]] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/\w+", path):
            folder = self.hub.folder / found[1]
            if not folder.is_dir():
                return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            entries = [_entry(file) for file in sorted(folder.iterdir())]
            if found[2] == "tree":
                return self._json(entries)
            siblings = [{"rfilename": entry["path"]} for entry in entries]
            return self._json({"id": found[1], "sha": REVISION, "siblings": siblings})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/\w+/([\w.-]+)", path):
            file = self.hub.folder / found[1] / found[2]
            if not file.is_file():
                return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return self._file(file, body)
        return self._json({"error": "no such page"}, 404)

    def _file(self, file: Path, body: bool) -> None:
        content = file.read_bytes()
        start, digest = 0, hashlib.sha256(content).hexdigest()
        if (ranged := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and not self.hub.deaf:
            start = int(ranged[1])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        self.hub.asked.append((file.name, start))
        if file.suffix == ".safetensors":
            if self.hub.damaged:
                content = bytes(len(content))
            if self.hub.cut is not None:
                content, self.hub.cut = content[: self.hub.cut], None
                self.close_connection = True
        for at in range(start, len(content), PIECE):
            if self.hub.slow and file.suffix == ".safetensors":
                time.sleep(self.hub.slow)
            try:
                self.wfile.write(content[at : at + PIECE])
            except OSError:
                self.close_connection = True
                return

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {
        "type": "file",
        "path": file.name,
        "size": len(content),
        "oid": digest[:40],
        "lfs": {"oid": digest, "size": len(content), "pointerSize": 134},
    }
