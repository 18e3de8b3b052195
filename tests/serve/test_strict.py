"""Bad requests are a 400 or a 413 with a sentence, never a 500, and the next good one works."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from cutaway.serve import strict
from cutaway.serve.limits import Limits
from cutaway.serve.problem import Problem
from tests.serve.served import LIMITS

GOOD = b'{"model":"small","text":"echo"}'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b'{"model":"small","text":"a"', "not JSON"),
        (b'{"model":"small","text":NaN}', "not JSON"),
        (b'{"model":"small","tokens":[Infinity]}', "not JSON"),
        (b'{"model":"small","tokens":[-Infinity]}', "not JSON"),
        (b'{"model":"small","tokens":[1e999]}', "not JSON"),
        (b'{"model":"small","tokens":[' + b"9" * 1900 + b"]}", "not a token id"),
        (b'{"model":"small","tokens":[1.0]}', "not a token id"),
        (b'{"model":"small","tokens":[true]}', "not a token id"),
        (b'{"model":"small","tokens":[-1]}', "not a token id"),
        (b'{"model":"small","tokens":["1"]}', "not a token id"),
        (b'{"model":"small","tokens":{}}', "not a list"),
        (b"[" * 1900, "not"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "lacks"),
        (b'{"model":"small","text":"\\ud800"}', "surrogate"),
        (b'{"model":"\\udfff","text":"a"}', "surrogate"),
        (b'{"model":"small","text":3}', "not a string"),
        (b'{"model":null,"text":"a"}', "not a string"),
        (b'{"text":"a"}', 'lacks "model"'),
        (b'{"model":"small"}', "one of"),
        (b'{"model":"small","text":"a","tokens":[1]}', "one of"),
        (b'{"model":"small","text":"a","text":"b"}', "not JSON"),
        (b'{"model":"small","text":"a","edit":"b"}', '"edit"'),
        (b'{"model":"small","text":"a","want":"x"}', "not a list"),
        (b'{"model":"small","text":"a","want":["x"]}', "not an object"),
        (b'{"model":"small","text":"a","want":[{"at":1}]}', 'lacks "name"'),
        (b'{"model":"small","text":"a","want":[{"name":"../x"}]}', "name of a tensor"),
        (b'{"model":"small","text":"a","want":[{"name":""}]}', "name of a tensor"),
        (b'{"model":"small","text":"a","want":[{"name":"x","at":"1,"}]}', "index"),
        (b'{"model":"small","text":"a","want":[{"name":"x","at":true}]}', "index"),
        (b'{"model":"small","text":"a","want":[{"name":"x","at":[1]}]}', "index"),
        (b'{"model":"small","text":"a","want":[{"name":"x","at":1e3}]}', "index"),
        (b'{"model":"small","text":"a","want":[{"name":"x","at":99999999999}]}', "index"),
    ],
)
def test_misunderstood(client: TestClient, body: bytes, says: str) -> None:
    answer = client.post("/api/run", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert client.post("/api/run", content=GOOD, headers={"content-type": "application/json"}).status_code == 200


def test_deep_nesting_is_a_400() -> None:
    for body in (b"[" * 200_000, b'{"a":' * 200_000):
        with pytest.raises(Problem) as caught:
            strict.run(body, Limits())
        assert caught.value.status == 400


def test_numbers_of_many_digits_are_a_400() -> None:
    with pytest.raises(Problem) as caught:
        strict.run(b'{"model":"small","tokens":[' + b"9" * 5000 + b"]}", Limits())
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("request_", "limit"),
    [
        ({"text": "a" * (LIMITS.text_characters + 1)}, LIMITS.text_characters),
        ({"text": "a", "want": [{"name": "x"}] * (LIMITS.wants + 1)}, LIMITS.wants),
    ],
)
def test_too_much(client: TestClient, request_: dict, limit: int) -> None:
    answer = client.post("/api/run", json={"model": "small", **request_})
    assert answer.status_code == 413
    assert f"{limit:,}" in answer.json()["error"]["message"]


def test_too_many_tokens() -> None:
    body = json.dumps({"model": "small", "tokens": [1] * 4097}).encode()
    with pytest.raises(Problem, match="4,097") as caught:
        strict.run(body, Limits())
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "text", ["", "\0", "‏مرحبا", "👩‍👩‍👧‍👦", "é" * 100, "<script>alert(1)</script>", "\x1b[2J", "a\r\nb"]
)
def test_any_other_text_goes_through(client: TestClient, text: str) -> None:
    answer = client.post("/api/run", json={"model": "small", "tokens": [0], "want": []})
    assert answer.status_code == 200
    answer = client.post("/api/run", json={"model": "small", "text": "echo " + text})
    assert answer.status_code == 200
    assert repr("echo " + text) in answer.content.decode()


@pytest.mark.parametrize(
    "model",
    ["nothing", "/etc", "../small", "small/../other", "", "SMALL", "openai-community/gpt2", "https://example.org/x"],
)
def test_models_are_chosen_from_the_list(client: TestClient, model: str) -> None:
    assert client.post("/api/run", json={"model": model, "text": "echo"}).status_code == 404


@pytest.mark.parametrize(
    "at", ["x", "1.0", "", "1e9", "99999999999", "٣", "--1", " 1", "1,", ",", "1:2:3", "1;2", "[1]", ",".join("1" * 9)]
)
def test_an_index_is_an_index(client: TestClient, at: str) -> None:
    assert client.get(f"/api/records/{'0' * 16}/tensor", params={"name": "x", "at": at}).status_code == 400


@pytest.mark.parametrize(
    "cell", ["", "embed", "embed[]", "embed[1:2]", "embed[a]", "../x[1]", "embed[٣]", "x" * 300 + "[1]", "z[1,2,3,4,5]"]
)
def test_a_cell_is_a_cell(client: TestClient, cell: str) -> None:
    answer = client.get(f"/api/records/{'0' * 16}/explain", params={"cell": cell})
    assert answer.status_code == 400
    assert "cell" in answer.json()["error"]["message"]


def test_globs_of_a_file_are_globs_and_not_too_many(client: TestClient) -> None:
    address = f"/api/records/{'0' * 16}/file"
    assert client.get(address, params={"include": "../x"}).status_code == 400
    assert client.get(address, params={"weights": "x" * 201}).status_code == 400
    assert client.get(address, params={"include": ["x"] * (LIMITS.wants + 1)}).status_code == 413


@pytest.mark.parametrize("at", ["3", "-1", "3,5:9", ":", ":,-2:", "1:,:1", None])
def test_an_index_may_be_a_slice(at: str | None) -> None:
    body = {"model": "small", "text": "a", "want": [{"name": "x", "at": at}]}
    assert strict.run(json.dumps(body).encode(), Limits()).want == [strict.Want("x", at)]
    assert strict.index(at) == at
    assert strict.index(-3) == "-3"


def test_a_record_is_not_a_path(client: TestClient) -> None:
    for record in ("..", "0", "0" * 15, "0" * 17, "G" * 16, "%2e%2e", "0" * 15 + "%0a"):
        assert client.get(f"/api/records/{record}/tensor", params={"name": "x"}).status_code == 404
        assert client.get(f"/api/records/{record}/explain", params={"cell": "x[0]"}).status_code == 404
        assert client.get(f"/api/records/{record}/file").status_code == 404


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "text", "at"]), inner),
    max_leaves=8,
)
keys = st.sampled_from(["model", "text", "tokens", "want", "name", "at", "else"])


@settings(deadline=None)
@given(st.dictionaries(keys, json_values) | json_values)
def test_whatever_comes_it_is_understood_or_a_problem(value: object) -> None:
    try:
        run = strict.run(json.dumps(value).encode(), Limits())
    except Problem as problem:
        understood = problem.status in (400, 413)
    else:
        understood = isinstance(run.model, str)
    assert understood


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_whatever_bytes_come(body: bytes) -> None:
    with pytest.raises(Problem):
        strict.run(body, Limits())
