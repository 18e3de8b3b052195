"""The server against its own description: schemathesis makes requests of /openapi.json, good ones and bad ones."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from cutaway import hub
from cutaway.serve import described
from cutaway.serve.limits import Limits
from cutaway.serve.v1 import OPEN
from tests.serve.test_openai import TEMPLATE, TEXT, Server

pytestmark = pytest.mark.skipif(not hub.bundled(), reason="no model is bundled in this checkout")

CHECKS = (
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
)
REFUSED = [400, 404, 413]
ASKED = ["GET /v1/models/{id}", "POST /v1/completions", "POST /v1/chat/completions", "POST /v1/embeddings"]
PLAIN = ["GET /v1/models", "GET /health", "GET /ready", "GET /version", "GET /metrics", "GET /openapi.json"]
VOCABULARY = 4096


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The bundled model with a chat template, and limits that generated requests reach."""
    folder = tmp_path_factory.mktemp("models") / "told"
    shutil.copytree(next(entry.folder for entry in hub.bundled() if entry.name == "stories"), folder)
    about = folder / "tokenizer_config.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "chat_template": TEMPLATE}))
    server = Server(str(folder), limits="tokens=6, choices=4, text_characters=120, body_bytes=20_000")
    yield server
    server.end()


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    return server.http.get("/openapi.json").json()


@pytest.fixture(scope="module")
def operations(document: dict[str, Any], server: Server) -> dict[str, Any]:
    config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSED}}})
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.config.update(base_url=f"http://127.0.0.1:{server.port}")
    return {one.label: one for one in (found.ok() for found in schema.get_all_operations())}


def statuses(operation: Any, mode: GenerationMode, examples: int = 1) -> Counter[int]:
    """Check the answers to so many requests; returns how many had which status."""
    seen: Counter[int] = Counter()

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and case.method == "POST":
            case.body = known(case.body)
        answer = case.call()
        case.validate_response(answer, checks=CHECKS)
        seen[answer.status_code] += 1

    ask()
    return seen


def known(value: Any) -> Any:
    """The same with token ids that the model has."""
    if isinstance(value, dict):
        return {key: known(one) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    ids = all(type(one) in (int, float) for one in value)
    return [one % VOCABULARY if ids else known(one) for one in value]


def test_every_address_is_described_and_asked(operations: dict[str, Any]) -> None:
    assert sorted(operations) == sorted([*ASKED, *PLAIN])


@pytest.mark.parametrize("label", [*ASKED, *PLAIN])
def test_what_is_described_is_answered_as_described(operations: dict[str, Any], label: str) -> None:
    seen = statuses(operations[label], GenerationMode.POSITIVE, 80)
    assert seen[200] > seen.total() / 2, "too few of the requests came through to say anything"


@pytest.mark.parametrize("label", ASKED)
def test_what_is_not_described_is_refused(operations: dict[str, Any], label: str) -> None:
    seen = statuses(operations[label], GenerationMode.NEGATIVE, 200)
    assert seen.keys() <= set(REFUSED)


@pytest.mark.parametrize(
    ("label", "asked"),
    [
        ("POST /v1/completions", {"prompt": TEXT, "logprobs": 2, "echo": True, "max_tokens": 3, "n": 2}),
        ("POST /v1/completions", {"prompt": TEXT, "stream_options": {"include_usage": True}}),
        ("POST /v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True}),
    ],
)
def test_every_event_is_as_described(operations: dict[str, Any], label: str, asked: dict[str, Any]) -> None:
    body = {"model": "local/told", "stream": True, **asked}
    answer = operations[label].Case(body=body, media_type="application/json").call_and_validate(checks=CHECKS)
    assert answer.headers["content-type"] == ["text/event-stream"]
    assert answer.text.endswith("data: [DONE]\n\n")


def test_the_key_is_described_where_there_is_one() -> None:
    addresses = list(described.OPERATIONS)
    without, within = (described.document(addresses, "stories", Limits(), open) for open in (None, OPEN))
    assert "securitySchemes" not in without["components"]
    for address, (operation,) in ((at, path.values()) for at, path in within["paths"].items()):
        assert ("401" in operation["responses"]) == ("security" in operation) == (address not in OPEN)


def test_bounds_are_those_of_the_limits(document: dict[str, Any]) -> None:
    asked = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    n, most = (asked["properties"][name]["anyOf"][0]["maximum"] for name in ("n", "max_tokens"))
    assert (n, most, asked["properties"]["n"]["default"]) == (4, 6, 1)
    assert asked["required"] == ["model", "prompt"]
