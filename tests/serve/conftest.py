"""The application with a fake worker, reached as a browser reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cutaway.serve.gate import Gate
from tests.serve.served import ADDRESS, application, client_of


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built page, and around it files that must not be served."""
    around = tmp_path_factory.mktemp("site")
    (around / "secret.txt").write_text("secret")
    (around / "page-secret").mkdir()
    (around / "page-secret" / "index.html").write_text("secret")
    folder = around / "page"
    (folder / "assets").mkdir(parents=True)
    (folder / "stored").mkdir()
    (folder / "index.html").write_text(
        "<!doctype html><title>Cutaway</title><style>a {\n}</style><div data-script='x'></div><script>1 + 1</script>"
    )
    (folder / "assets" / "index-BX3k2c9a.js").write_text("export const a = 1;\n" * 200)
    (folder / "assets" / "index-BX3k2c9a.js.br").write_bytes(b"brotli form")
    (folder / "assets" / "style-Ck31aaZ_.css").write_text("a { color: red }\n" * 200)
    for name in ("icon.svg", "stored/once.vocabulary.json", "assets/serif-Bx3k2c9a.woff2", "standalone.html"):
        (folder / name).write_bytes(b"<file>" * 400)
    (folder / "assets" / "lesson-D1fk2c9a.js").write_text("export const b = 2;\n")
    (folder / "stored" / "once.cutaway").write_bytes(bytes(range(256)) * 8)
    (folder / "link.txt").symlink_to(around / "secret.txt")
    return folder


@pytest.fixture(scope="module")
def gate(page: Path) -> Gate:
    return application(page)


@pytest.fixture(scope="module")
def client(gate: Gate) -> Iterator[TestClient]:
    """A browser that has opened the printed address."""
    with client_of(gate) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(gate: Gate, client: TestClient) -> TestClient:
    """A client without the cookie, of the same running server."""
    return TestClient(gate, base_url=ADDRESS, follow_redirects=False)
