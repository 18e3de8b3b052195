"""The API as programs use it: the official client, and requests shaped like lm-eval-harness's, on real models."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import cutaway
from cutaway import hub
from cutaway.errors import Misuse
from cutaway.generate.in_c import InC as Engine
from cutaway.inputs.engines import BYTE_OF
from cutaway.serve.gate import Door
from cutaway.serve.openai import refusal
from tests.families.making import LLAMA, make

pytestmark = pytest.mark.skipif(not hub.bundled(), reason="no model is bundled in this checkout")

KEY = "a-key-of-the-tests"
TEXT = "Once upon a time there was a"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


class Server:
    """`cutaway serve` as a process."""

    def __init__(
        self,
        model: str,
        *,
        key: str | None = None,
        limits: str = "",
        metrics: bool = True,
        how: str = "",
        before: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        """``before``: what runs first in the server's process."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        script = (
            "import sys; from cutaway.serve import app; from cutaway.serve.limits import Limits; whole = app.serve; "
            f"{before or 'pass'}; "
            f"app.serve = lambda *a, **k: whole(*a, **k, limits=Limits({limits})); "
            f"sys.exit(app.serve_api({model!r}, port={self.port}, key={key!r}, metrics={metrics}, "
            f"how=app.How({how})))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        assert self.process.stdout is not None
        self.base = self.process.stdout.readline().strip()
        self.page = self.process.stdout.readline().strip()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, headers=headers)
        self.client = openai.OpenAI(base_url=self.base, api_key=key or "none", max_retries=0, timeout=60)
        end = time.monotonic() + 60
        while self.http.get("/ready").status_code != 200:
            assert time.monotonic() < end, "the model was not loaded"
            time.sleep(0.05)

    def post(self, path: str, **value: Any) -> httpx.Response:
        return self.http.post(f"/v1/{path}", json=value)

    def metric(self, name: str) -> int:
        lines = self.http.get("/metrics").text.splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(f"cutaway_{name} ")))

    def end(self) -> int:
        self.http.close()
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("stories")
    yield server
    server.end()


@pytest.fixture(scope="module")
def stories() -> cutaway.Model:
    return cutaway.load("stories")


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tiny model with a chat template, behind a key."""
    folder = make(tmp_path_factory.mktemp("chatty"), {**LLAMA, "vocab_size": 256, "max_position_embeddings": 128})
    tokenizer = Tokenizer(models.BPE(BYTE_OF, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    server = Server(str(folder), key=KEY)
    yield server
    server.end()


# --- the official client ---------------------------------------------------------------------------------------------


def test_models(server: Server) -> None:
    (model,) = server.client.models.list()
    assert (model.id, model.object, model.owned_by) == ("stories", "model", "cutaway")
    assert server.client.models.retrieve("stories") == model
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_what_prompts_begin_with_alike_is_read_once(server: Server, stories: cutaway.Model) -> None:
    told = "Deep in the green forest a small grey mouse sat on a stone and waited for the rain to stop falling."
    texts = [told + end for end in (" It said", " Then came", "")]
    alike = len(stories.tokens(told))
    cached = []
    for text in texts:
        answer = server.client.completions.create(model="stories", prompt=text, max_tokens=4, seed=3, n=2)
        assert [choice.text for choice in answer.choices] == [
            stories.generate(text, max_new_tokens=4, seed=seed).text for seed in (3, 4)
        ]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert cached == [0, alike, alike - 1]  # somebody has read it; and the last of a prompt is always read


def test_a_completion_is_what_python_generates(server: Server, stories: cutaway.Model) -> None:
    asked = {"model": "stories", "prompt": TEXT, "max_tokens": 12, "seed": 7}
    answer = server.client.completions.create(**asked)
    expected = stories.generate(TEXT, max_new_tokens=12, seed=7)
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason == "length"
    read = len(stories.tokens(TEXT))
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (read, 12)
    streamed = list(server.client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in streamed[:-1]) == expected.text
    assert streamed[-2].choices[0].finish_reason == "length"
    assert (streamed[-1].choices, streamed[-1].usage) == ([], answer.usage)


def test_several_texts_and_stop(server: Server, stories: cutaway.Model) -> None:
    prompts = [TEXT, stories.tokens("The dog")]
    answer = server.client.completions.create(
        model="stories",
        prompt=prompts,
        n=2,
        max_tokens=8,
        seed=3,
        temperature=1,  # type: ignore[arg-type]
    )
    expected = [stories.generate(tokens=stories.tokens(text), max_new_tokens=8, seed=seed).text
                for text in (TEXT, "The dog") for seed in (3, 4)]  # fmt: skip
    assert [choice.text for choice in sorted(answer.choices, key=lambda one: one.index)] == expected
    greedy = stories.generate(TEXT, max_new_tokens=30, temperature=0).text
    stop = greedy[5:9]
    cut = server.client.completions.create(model="stories", prompt=TEXT, max_tokens=30, temperature=0, stop=stop)
    assert cut.choices[0].text == greedy[: greedy.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_biases_and_penalties(server: Server) -> None:
    only = {"model": "stories", "prompt": TEXT, "max_tokens": 3, "temperature": 0, "logprobs": 0}
    answer = server.client.completions.create(**only, logit_bias={"65": 100})
    tokens = answer.choices[0].logprobs.tokens  # type: ignore[union-attr]
    assert len(set(tokens)) == 1  # the biased one, each time
    calmed = server.client.completions.create(**only, logit_bias={"65": 100, "66": 99}, frequency_penalty=2)
    assert len(set(calmed.choices[0].logprobs.tokens)) == 2  # type: ignore[union-attr]


def test_chat(chatty: Server) -> None:
    asked = {"model": chatty.client.models.list().data[0].id, "messages": [{"role": "user", "content": "Hi"}]}
    answer = chatty.client.chat.completions.create(**asked, max_tokens=6, seed=1, logprobs=True, top_logprobs=2)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.logprobs is not None
    assert [len(item.top_logprobs) for item in choice.logprobs.content or []] == [2] * 6
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("user: Hi\nassistant:")
    streamed = list(chatty.client.chat.completions.create(**asked, max_completion_tokens=6, seed=1, stream=True))
    assert streamed[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == choice.message.content
    assert streamed[-1].choices[0].finish_reason == "length"


def test_a_model_without_a_template_says_so(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="stories has no chat template"):
        server.client.chat.completions.create(model="stories", messages=[{"role": "user", "content": "Hi"}])


def test_embeddings(server: Server, stories: cutaway.Model) -> None:
    texts = [TEXT, "The dog barked."]
    expected = stories.embed(texts).numpy()
    for form in ({}, {"encoding_format": "float"}):
        answer = server.client.embeddings.create(model="stories", input=texts, **form)  # type: ignore[arg-type]
        np.testing.assert_allclose([one.embedding for one in answer.data], expected, atol=1e-5)
    ids = [stories.tokens(text) for text in texts]
    answer = server.client.embeddings.create(model="stories", input=ids)
    np.testing.assert_allclose([one.embedding for one in answer.data], expected, atol=1e-5)
    assert answer.usage.prompt_tokens == sum(map(len, ids))


def test_a_quantised_model_is_served_and_says_so(stories: cutaway.Model) -> None:
    server = Server("stories", how="quantize='int4'")
    try:
        assert server.client.models.list().data[0].model_dump()["dtype"] == "int4"
        asked = {"model": "stories", "prompt": TEXT, "max_tokens": 12, "seed": 7}
        found = server.client.completions.create(**asked).choices[0].text
        assert found == cutaway.load("stories", quantize="int4").generate(TEXT, max_new_tokens=12, seed=7).text
        page = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60)
        page.get(server.page)
        listed = page.get("/api/models").json()
        assert {one["id"]: one["dtype"] for one in listed}["stories"] == "int4"
        want = [{"name": name, "at": None} for name in ("embed", "river", "blocks.*.attn.pattern", "logits.last")]
        answer = page.post("/api/run", json={"model": "stories", "text": TEXT, "want": want})
        assert answer.status_code == 200, answer.text
        record = answer.headers["x-record"]
        told = page.get(f"/api/records/{record}/explain?cell=blocks.1.mlp.up[-1,5]")
        assert told.status_code == 200, told.text
        page.close()
    finally:
        server.end()


def test_keys_and_values_are_kept_as_asked(kernels: None, stories: cutaway.Model) -> None:
    def read(model: cutaway.Model) -> torch.Tensor:
        """The log-probability of each token of the text but the first."""
        ids = torch.tensor(model.tokens(TEXT))
        (logits,) = Engine(model.machine, len(ids)).together([(0, ids.tolist(), True)])
        return torch.from_numpy(logits).double().log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]

    server = Server("stories", how="cache='int8'")
    try:
        asked = {"model": "stories", "prompt": TEXT, "max_tokens": 0, "echo": True, "logprobs": 1}
        found = torch.tensor(server.post("completions", **asked).json()["choices"][0]["logprobs"]["token_logprobs"][1:])
    finally:
        server.end()
    assert (
        (found - read(cutaway.load("stories", cache="int8"))).abs().max() < 1e-5 < (found - read(stories)).abs().max()
    )


def test_how_a_model_is_loaded_is_checked_before_it_is_served() -> None:
    from cutaway.serve.app import How, look, serve_api

    for how, says in (
        (How(quantize="int3"), "int8 or int4"), (How("int8", dtype="bfloat16"), "float32"),
        (How(dtype="int7"), "no dtype"), (How(cache="int4"), "Keys and values are kept in int8"),
        (How(cache="int8", device="cuda"), "on processors"), (How(cache="int8", dtype="float16"), "reads no float16"),
    ):  # fmt: skip
        with pytest.raises(Misuse, match=says):
            serve_api("stories", how=how)
    with pytest.raises(Misuse, match="--model"):
        look(how=How("int8"))
    with pytest.raises(Misuse, match="writes no texts"):
        look(model="words", how=How(cache="int8"))


# --- what lm-eval-harness sends ---------------------------------------------------------------------------------------


def test_echo_gives_the_exact_logprobs_of_the_prompt(server: Server, stories: cutaway.Model) -> None:
    prompts = [stories.tokens(TEXT), stories.tokens("The dog ran. " * 25)]
    answer = server.post(
        "completions", model="stories", prompt=prompts, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True
    ).json()
    for choice, ids in zip(sorted(answer["choices"], key=lambda one: one["index"]), prompts, strict=True):
        found = choice["logprobs"]
        assert len(found["token_logprobs"]) == len(found["tokens"]) == len(found["top_logprobs"]) == len(ids) + 1
        assert found["token_logprobs"][0] is None
        with torch.no_grad():
            machine: Any = stories.machine
            shares = machine.logits(machine.stream(torch.tensor([ids])))[0].double().log_softmax(-1)
        expected = [float(shares[place, id]) for place, id in enumerate(ids[1:])]
        np.testing.assert_allclose(found["token_logprobs"][1:-1], expected, atol=1e-4)
        for place, (own, top) in enumerate(
            zip(found["token_logprobs"][1:-1], found["top_logprobs"][1:-1], strict=True)
        ):
            greedy = int(shares[place].argmax()) == ids[place + 1]
            assert (own == max(top.values())) == greedy  # how lm-eval asks whether it was the most probable
        assert choice["text"].startswith(stories.text(ids))
        assert found["text_offset"][1:] == sorted(found["text_offset"][1:])
    only = server.post("completions", model="stories", prompt=TEXT, max_tokens=0, logprobs=0, echo=True).json()
    assert only["choices"][0]["text"] == TEXT
    assert only["usage"]["completion_tokens"] == 0


# --- refused, and never a 500 -----------------------------------------------------------------------------------------

GOOD = {"model": "stories", "prompt": TEXT, "max_tokens": 1}


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"), ({"prompt": ""}, 400, None), ({"prompt": []}, 400, "prompt"),
        ({"prompt": [-1]}, 400, "prompt"), ({"prompt": [10**8]}, 400, None), ({"prompt": [[1], 2]}, 400, "prompt"),
        ({"prompt": "\ud800"}, 400, "prompt"), ({"prompt": "a" * 100_001}, 413, "prompt"),
        ({"max_tokens": -1}, 400, "max_tokens"), ({"max_tokens": 10**12}, 400, "max_tokens"),
        ({"max_tokens": 1.5}, 400, "max_tokens"), ({"max_tokens": 4096}, 400, "max_tokens"),
        ({"n": 10**9}, 400, "n"), ({"n": 0}, 400, "n"), ({"temperature": -1}, 400, "temperature"),
        ({"temperature": 1e9}, 400, "temperature"), ({"top_p": 0}, 400, "top_p"), ({"top_p": 2}, 400, "top_p"),
        ({"logprobs": -1}, 400, "logprobs"), ({"logprobs": 10**6}, 400, "logprobs"),
        ({"logit_bias": {"a": 1}}, 400, "logit_bias"), ({"logit_bias": {"99999999": 1}}, 400, None),
        ({"logit_bias": {"5": 101}}, 400, "logit_bias"), ({"stop": ["a"] * 5}, 400, "stop"),
        ({"stop": ""}, 400, "stop"), ({"suffix": "end"}, 400, "suffix"), ({"best_of": 3}, 400, "best_of"),
        ({"stream": "yes"}, 400, "stream"), ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"seed": 10**30}, 400, "seed"), ({"nonsense": 1}, 400, "nonsense"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"), ({"best_of": True}, 400, "best_of"),
        ({"store": 0}, 400, "store"), ({"stream_options": 0}, 400, "stream_options"), ({"n": True}, 400, "n"),
        ({"stream": True, "stream_options": {"other": 1}}, 400, "stream_options"),
        ({"logit_bias": {"5": None}}, 400, "logit_bias"), ({"prompt": ["a", 1]}, 400, "prompt"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_a_sentence(
    server: Server, changes: dict[str, Any], status: int, param: str | None
) -> None:
    body = json.dumps({**GOOD, **changes})
    answer = server.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith(".")
    assert server.post("completions", **GOOD).status_code == 200


def test_a_whole_number_may_be_written_with_a_point(server: Server) -> None:
    answers = [server.post("completions", **{**GOOD, "prompt": ids, "max_tokens": most, "seed": 5})
               for ids, most in (([5, 6], 3), ([5.0, 6], 3.0))]  # fmt: skip
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1


def test_a_message_holds_texts_only(server: Server) -> None:
    for content in (None, 5, [{"type": "image_url", "text": "a"}], [{"type": "text", "text": "a", "more": 1}], ["a"]):
        error = server.post("chat/completions", model="stories", messages=[{"role": "user", "content": content}]).json()
        assert error["error"]["param"] == "messages"
    error = server.post("chat/completions", model="stories", messages=[{"role": "cook", "content": "a"}]).json()[
        "error"
    ]
    assert error["message"] == (
        'The request was not understood: "messages[].role" is not one of system, developer, user, assistant, tool.'
    )


def test_a_prompt_longer_than_the_context_names_both_numbers(server: Server, stories: cutaway.Model) -> None:
    error = server.post("completions", **{**GOOD, "prompt": [5] * 20, "max_tokens": stories.context}).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "20 tokens" in error["message"]
    assert f"{stories.context:,}" in error["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"a":NaN}', b'{"a":1,"a":2}', b"[" * 100_000, b"\xff", b"1" * 5000])
@pytest.mark.parametrize("path", ["completions", "chat/completions", "embeddings"])
def test_what_is_not_json_is_a_400(server: Server, path: str, body: bytes) -> None:
    answer = server.http.post(f"/v1/{path}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 40) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
KEYS = ["prompt", "messages", "input", "max_tokens", "temperature", "top_p", "n", "stream", "stop", "seed", "logprobs",
        "echo", "logit_bias", "presence_penalty", "frequency_penalty", "top_k", "min_p", "repetition_penalty", "suffix",
        "encoding_format", "top_logprobs", "stream_options", "user", "tools", "other"]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["completions", "chat/completions", "embeddings"]),
    body=st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4),
    whole=st.booleans(),
)
def test_no_request_is_a_5xx(server: Server, path: str, body: dict[str, Any], whole: bool) -> None:
    usual: dict[str, Any] = {"model": "stories"}
    if whole:
        usual |= {"input": "a"} if path == "embeddings" else {"max_tokens": 2}
        usual |= {"prompt": "a"} if path == "completions" else {}
        usual |= {"messages": [{"role": "user", "content": "a"}]} if path == "chat/completions" else {}
    content = json.dumps({**usual, **body})
    answer = server.http.post(f"/v1/{path}", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 404, 413), answer.text


# --- who may ask ------------------------------------------------------------------------------------------------------


def test_the_key(chatty: Server) -> None:
    bare = httpx.Client(base_url=f"http://127.0.0.1:{chatty.port}")
    for path in ("/v1/models", "/v1/models/x", "/version", "/metrics", "/v1/nothing"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
            answer = bare.get(path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path
    assert bare.post("/v1/completions", json={}).status_code == 401
    assert bare.get("/health").json() == {"status": "ok"}
    assert bare.get("/ready").status_code == 200
    assert bare.get("/", headers={"Authorization": f"Bearer {KEY}"}).status_code == 401  # the page has its own token
    assert chatty.http.get("/version").json() == {"version": cutaway.__version__}
    assert bare.get(chatty.page).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.com"}, {"origin": "http://evil.com"}, {"sec-fetch-site": "cross-site"}, {"host": "127.0.0.1:1"}],
)
def test_no_other_page_may_ask(server: Server, headers: dict[str, str]) -> None:
    answer = server.http.get("/v1/models", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"
    assert server.http.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415


def test_what_is_not_there(server: Server) -> None:
    for answer in (server.http.get("/v1/nothing"), server.http.post("/v1/nothing", json={})):
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")
    answer = server.http.get("/v1/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    for path in ("/v1/models", "/v1/models/stories", "/health", "/metrics"):
        answer = server.http.post(path, json={})
        assert (answer.status_code, answer.headers["allow"], answer.json()["error"]["param"]) == (405, "GET", None)
    for path in ("/v1/models/two%0Alines", "/health/x"):
        assert server.http.get(path).json()["error"]["type"] == "invalid_request_error"


# --- many at once -----------------------------------------------------------------------------------------------------


def test_many_streams_each_equal_their_solo_run(server: Server, stories: cutaway.Model) -> None:
    def stream(seed: int) -> str:
        chunks = server.client.completions.create(model="stories", prompt=TEXT, max_tokens=20, seed=seed, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)

    with ThreadPoolExecutor(32) as pool:
        texts = list(pool.map(stream, range(32)))
    assert texts == [stories.generate(TEXT, max_new_tokens=20, seed=seed).text for seed in range(32)]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_place_and_harms_nobody(server: Server, stream: bool) -> None:
    body = json.dumps({**GOOD, "max_tokens": 400, "n": 20, "ignore_eos": True, "stream": stream})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as leaving:
        leaving.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        if stream:
            assert leaving.recv(100).startswith(b"HTTP/1.1 200")
        else:
            until(lambda: server.metric("requests_under_way") == 1)
    until(lambda: server.metric("requests_under_way") == 0)
    written = server.metric("completion_tokens_total")
    assert server.post("completions", **{**GOOD, "max_tokens": 5, "ignore_eos": True}).status_code == 200
    assert server.metric("completion_tokens_total") == written + 5  # of the one that left nothing more is heard


def until(happens: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_page_is_answered_while_texts_are_written(server: Server) -> None:
    page = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60)
    page.get(server.page)
    long = {**GOOD, "max_tokens": 400, "n": 8, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(server.post, "completions", **long)
        until(lambda: server.metric("requests_under_way") == 1)
        answer = page.post("/api/run", json={"model": "stories", "text": TEXT, "want": []})
        assert answer.status_code == 200
        assert not writing.done()
        assert writing.result().status_code == 200
    page.close()


def test_too_many_are_told_to_come_back() -> None:
    server = Server("stories", limits="requests=2, write_seconds=1.5")
    try:
        long = {**GOOD, "max_tokens": 450, "n": 60, "ignore_eos": True}
        with ThreadPoolExecutor(2) as pool:
            under_way = [pool.submit(server.post, "completions", **long) for _ in range(2)]
            until(lambda: server.metric("requests_under_way") == 2)
            refused = server.post("completions", **GOOD)
            assert server.http.get("/health").status_code == 200
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"]["type"] == "rate_limit_error"
            late = [one.result() for one in under_way]
        assert [(one.status_code, one.headers["x-should-retry"]) for one in late] == [(503, "false")] * 2
        assert server.post("completions", **GOOD).status_code == 200
    finally:
        assert server.end() == 143


def test_a_worker_that_dies_is_replaced() -> None:
    if not Path("/proc").is_dir():
        pytest.skip("finds the worker by /proc")
    server = Server("stories")
    try:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        until(lambda: server.http.get("/ready").status_code == 503)
        assert server.http.get("/health").status_code == 200
        until(lambda: server.http.get("/ready").status_code == 200)
        assert math.isclose(server.post("completions", **GOOD).json()["usage"]["completion_tokens"], 1)
    finally:
        server.end()


def test_docs_describe_every_route() -> None:
    from cutaway.serve.limits import Limits
    from cutaway.serve.supervisor import Supervisor
    from cutaway.serve.v1 import V1

    document = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    for route in V1(Supervisor(), Limits(), metrics=True).answered():
        method = next(iter(route.methods - {"HEAD"}))
        assert f"`{method} {route.path.replace(':path', '')}`" in document


def test_only_with_a_key_may_others_ask() -> None:
    from cutaway.serve.app import serve_api

    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(Misuse, match="Without an API key"):
            serve_api("stories", host)
    for key in ("", " ", "a b", "schlüssel"):
        with pytest.raises(Misuse, match="API key"):
            serve_api("stories", key=key)


def test_behind_a_key_ip_addresses_and_listed_names_are_hosts() -> None:
    door = Door((), (), refusal, "key", ("example.org",), anywhere=True)
    for host in ("10.0.0.2:8000", "[fe80::1]:8000", "example.org", "example.org:443", "EXAMPLE.org"):
        assert door.answers_to(host, 8000), host
    for host in ("evil.com:8000", "10.0.0.2:8001", "10.0.0.2.evil.com:8000", "example.org.evil.com", ""):
        assert not door.answers_to(host, 8000), host
    assert not Door((), (), refusal).answers_to("10.0.0.2:8000", 8000)
