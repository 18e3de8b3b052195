"""The page's files: nothing but them, in the form and for the time that suits them."""

from __future__ import annotations

import base64
import gzip
import hashlib
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.serve.served import application, client_of

SCRIPT = "/assets/index-BX3k2c9a.js"


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/%2e%2e/secret.txt", "/assets/../../secret.txt", "/assets/%2e%2e/%2e%2e/secret.txt",
     "//etc/passwd", "/etc/passwd", "/%2fetc/passwd", "/..%2fsecret.txt", "/..%5csecret.txt", "/page-secret/index.html",
     "/../page-secret/index.html", "/index.html%00.txt", "/%00", "/link.txt", "/assets", "/assets/", "/INDEX.HTML",
     "/index.html/", "/assets//index-BX3k2c9a.js", "/assets/index-BX3k2c9a.js.br"],
)  # fmt: skip
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    scope_path = client.build_request("GET", path)
    scope_path.url = scope_path.url.copy_with(raw_path=path.encode())  # httpx would tidy the dots away
    answer = client.send(scope_path)
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_how_long_files_are_kept(client: TestClient) -> None:
    assert client.get(SCRIPT).headers["cache-control"] == "public, max-age=31536000, immutable"
    assert client.get("/").headers["cache-control"] == "no-cache"
    assert client.get("/stored/once.cutaway").headers["cache-control"] == "no-cache"
    assert client.get("/api/models").headers["cache-control"] == "no-store"


def test_kinds(client: TestClient) -> None:
    assert client.get(SCRIPT).headers["content-type"] == "text/javascript; charset=utf-8"
    kinds = {
        "/stored/once.cutaway": "application/octet-stream",
        "/stored/once.vocabulary.json": "application/json",
        "/assets/lesson-D1fk2c9a.js": "text/javascript; charset=utf-8",
        "/assets/serif-Bx3k2c9a.woff2": "font/woff2",
        "/icon.svg": "image/svg+xml",
        "/standalone.html": "text/html; charset=utf-8",
    }
    for path, kind in kinds.items():
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"


def test_the_built_form_is_preferred(client: TestClient) -> None:
    with client.stream("GET", SCRIPT, headers={"accept-encoding": "gzip, deflate, br, zstd"}) as answer:
        assert answer.headers["content-encoding"] == "br"
        assert b"".join(answer.iter_raw()) == b"brotli form"


def test_gzip_is_made_when_wanted(client: TestClient) -> None:
    with client.stream("GET", "/assets/style-Ck31aaZ_.css", headers={"accept-encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(packed) == b"a { color: red }\n" * 200
    assert len(packed) < 200


@pytest.mark.parametrize("accepted", ["identity", "", "gzip;q=0, br;q=0", "zstd", "gzipped, brotli"])
def test_plain_for_who_wants_plain(client: TestClient, accepted: str) -> None:
    answer = client.get(SCRIPT, headers={"accept-encoding": accepted})
    assert "content-encoding" not in answer.headers
    assert answer.text.startswith("export const a")


def test_unchanged_files_are_not_sent_again(client: TestClient) -> None:
    tag = client.get("/").headers["etag"]
    again = client.get("/", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200


def test_a_page_that_is_not_built_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        answer = client_of(application(folder)).get("/")
        assert answer.status_code == 503
        assert "The page has not been built." in answer.text
        assert "make setup" in answer.text


def test_the_page_may_run_what_stands_in_it_and_nothing_else(client: TestClient) -> None:
    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    policy = client.get("/").headers["content-security-policy"]
    assert f"script-src 'self' {digest('1 + 1')}; style-src 'self' {digest('a {' + chr(10) + '}')};" in policy
    again = client.get("/", headers={"if-none-match": client.get("/").headers["etag"]})
    assert (again.status_code, again.headers["content-security-policy"]) == (304, policy)
    assert "sha256" not in client.get("/standalone.html").headers["content-security-policy"]
