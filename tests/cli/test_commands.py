"""What each command prints, and how it says no."""

from __future__ import annotations

import io
import json
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.serve.models import How
from tests.families.making import say

# --- what they print -------------------------------------------------------------------------------------------------


def test_next_prints_the_distribution(cutaway: Any, tiny: Path) -> None:
    code, out, err = cutaway("next", "once", "-m", tiny, "--top", 3)
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 5)
    assert lines[0].split() == ["probability", "logit", "id", "token"]
    assert "everything else, 253 tokens" in lines[4]
    shares = [float(line.split()[0].rstrip("%")) for line in lines[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.01)
    assert shares[0] >= shares[1] >= shares[2]


def test_next_as_json(cutaway: Any, tiny: Path) -> None:
    from cutaway.api import load

    document = json.loads(cutaway("next", "once", "-m", tiny, "--json").out)
    expected = load(tiny).next("once")
    assert document["tokens"] == expected.tokens
    assert [row["id"] for row in document["top"]] == [choice.id for choice in expected.top(10)]
    assert [row["p"] for row in document["top"]] == [choice.p for choice in expected.top(10)]
    assert document["rest"] == pytest.approx(1 - sum(row["p"] for row in document["top"]))
    assert document["vocabulary"] == 256


def test_next_can_show_the_whole_vocabulary(cutaway: Any, tiny: Path) -> None:
    out = cutaway("next", "a", "-m", tiny, "--top", 1000).out
    assert len(out.splitlines()) == 257
    assert "everything else" not in out


def test_generate_continues_the_text_and_shows_its_seed(cutaway: Any, tiny: Path) -> None:
    first = cutaway("generate", "once", "-m", tiny, "--max-new-tokens", 8, "--seed", 5)
    assert first.code == 0
    assert first.out.startswith("once")
    assert first.err == "8 tokens, seed 5, finish reason: length.\n"
    assert cutaway("generate", "once", "-m", tiny, "--max-new-tokens", 8, "--seed", 5) == first
    picked = cutaway("generate", "once", "-m", tiny, "--max-new-tokens", 8)
    seed = picked.err.split("seed ")[1].split(",")[0]
    assert cutaway("generate", "once", "-m", tiny, "--max-new-tokens", 8, "--seed", seed).out == picked.out


def test_generate_as_json(cutaway: Any, tiny: Path) -> None:
    options = ["--max-new-tokens", 6, "--top-k", 20, "--stop", "zzz", "--stop", "qqq", "--json"]
    document = json.loads(cutaway("generate", "once", "-m", tiny, *options).out)
    assert document["prompt"] == "once"
    assert "".join(step["text"] for step in document["tokens"]) == document["text"]
    assert document["settings"]["seed"] == document["seed"]
    assert document["settings"]["stop"] == ["zzz", "qqq"]
    assert all(0 < step["p"] <= step["p_drawn"] <= 1 for step in document["tokens"])


def test_argmax_and_beams_draw_nothing(cutaway: Any, tiny: Path) -> None:
    for options in (["--temperature", 0], ["--beams", 3]):
        code, out, err = cutaway("generate", "once", "-m", tiny, "--max-new-tokens", 5, *options)
        assert code == 0
        assert out.startswith("once")
        assert "seed" not in err
    document = json.loads(cutaway("generate", "once", "-m", tiny, "--max-new-tokens", 5, "--beams", 2, "--json").out)
    assert len(document["tokens"]) == 5


def test_tokens(cutaway: Any, tiny: Path) -> None:
    code, out, _ = cutaway("tokens", "a é\n", "-m", tiny)
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()] == ["a", "␣", "⟨C3⟩", "⟨A9⟩", "↵"]
    document = json.loads(cutaway("tokens", "a", "-m", tiny, "--json").out)
    assert document["tokens"] == [{"id": ord("a"), "text": "a", "special": False}]


def test_run_saves_a_record(cutaway: Any, tiny: Path, tmp_path: Path) -> None:
    import cutaway as package

    file = tmp_path / "run.cutaway"
    code, out, err = cutaway("run", "once", "-m", tiny, "--save", file)
    assert code == 0
    assert "blocks.1.attn.pattern" in out
    assert f"Saved {file}" in err
    record = package.open(file)
    assert record.tokens == list(b"once")
    assert record["blocks.1.attn.pattern"].shape == (4, 4, 4)
    document = json.loads(cutaway("run", "once", "-m", tiny, "--keep", "blocks.*.attn.pattern", "--json").out)
    assert list(document["stored"]) == ["blocks.0.attn.pattern", "blocks.1.attn.pattern"]
    assert document["saved"] is None


def test_run_writes_a_page(cutaway: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cutaway.look import html

    page = tmp_path / "run.html"
    monkeypatch.setattr(html, "TEMPLATE", tmp_path / "standalone.html")
    refused(cutaway("run", "once", "-m", tiny, "--html", page), 1, "The page has not been built")
    (tmp_path / "standalone.html").write_text(f"<!doctype html>{html.PLACE}")
    code, _, err = cutaway("run", "once", "-m", tiny, "--html", page)
    assert code == 0
    assert "Saved" in err
    assert '<script type="application/octet-stream" id="run">' in page.read_text("utf-8")
    assert json.loads(cutaway("run", "once", "-m", tiny, "--html", page, "--json").out)["html"] == str(page)


def test_names(cutaway: Any, tiny: Path) -> None:
    code, out, err = cutaway("names", tiny)
    assert code == 0
    assert "blocks.1.attn.pattern        H T T" in out
    assert "H heads" in err
    assert json.loads(cutaway("names", tiny, "--json").out)["names"]["final"] == ["T", "D"]


def test_explain_adds_up_on_paper(cutaway: Any, tiny: Path) -> None:
    code, out, err = cutaway("explain", "blocks.1.mlp.up[2,5]", "--text", "once", "-m", tiny)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("blocks.1.mlp.up[2,5] = ")
    assert lines[1] == "position 2 'c', neuron 5"
    rule = next(i for i, line in enumerate(lines) if line.startswith("──"))
    assert lines[rule - 1].split()[1:] == ["and", "8", "more"]
    terms = [float(line.split()[0]) for line in lines[4:rule]]
    assert len(terms) == 9
    assert sum(terms) == pytest.approx(float(lines[rule + 1].split()[0]), abs=1e-5)
    assert [line.split()[1] for line in lines[rule + 1 :]] == ["sum", "recorded", "difference"]


def test_explain_as_json(cutaway: Any, tiny: Path) -> None:
    from cutaway.api import load

    document = json.loads(cutaway("explain", "logits[1,7]", "--text", "once", "-m", tiny, "--json").out)
    assert document.pop("model") == str(tiny)
    assert document == load(tiny).run("once").explain("logits[1,7]").to_json()
    masked = cutaway("explain", "blocks.0.attn.pattern[0,1,2]", "--text", "once", "-m", tiny)
    assert "causal: position 1 reads nothing after it" in masked.out
    assert "position 1 'n', token 97 'a'\n" in cutaway("explain", "logits[1,97]", "--text", "once", "-m", tiny).out
    assert cutaway("explain", "logits[1]", "--text", "once", "-m", tiny).code == 2


def test_compare_says_what_python_says(cutaway: Any, tiny: Path) -> None:
    from cutaway import compare, load

    texts = "once upon", "once at"
    model = load(tiny)
    found = compare(*(model.run(text) for text in texts))
    code, out, err = cutaway("compare", *texts, "-m", tiny)
    assert (code, err) == (0, "")
    assert out.startswith(f"They part at token {found.parts_at}: ")
    assert all(f"{cosine:9.4f}" in out for cosine in found.cosine)
    told = json.loads(cutaway("compare", *texts, "-m", tiny, "--json").out)
    assert told["cosine"] == found.cosine
    assert [change["id"] for change in told["changes"]] == [change.id for change in found.changes]
    assert cutaway("compare", "once", "once", "-m", tiny).out.startswith("The two texts are the same tokens.")
    assert "stories" in cutaway("compare", *texts, "-m", tiny, "--second-model", "stories", "--json").out
    code, _, err = cutaway("compare", "-", "-", "-m", tiny)
    assert (code, err.splitlines()[0]) == (2, "Standard input can be read only once.")


def test_heads_ranks_them_by_what_the_record_says(cutaway: Any, tiny: Path) -> None:
    from cutaway.api import load
    from cutaway.look.heads import KINDS

    record = load(tiny).run("once at once")
    code, out, err = cutaway("heads", "once at once", "-m", tiny)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split() == ["block", "head", "kind", "score", "even", *KINDS]
    document = json.loads(cutaway("heads", "once at once", "-m", tiny, "--json").out)
    assert len(lines) == 1 + len(document["heads"]) == 1 + record["blocks.0.attn.kinds"].shape[0] * 2
    for line, head in zip(lines[1:], document["heads"], strict=True):
        expected = record[f"blocks.{head['block']}.attn.kinds[{head['head']}]"]
        assert list(head["scores"].values()) == pytest.approx(expected.tolist())
        assert head["score"] == pytest.approx(head["scores"][head["kind"]])
        assert line.split()[:4] == [str(head["block"]), str(head["head"]), head["kind"], f"{head['score']:.2f}"]
    above = [head["score"] - head["even"] for head in document["heads"] if head["kind"] != "broad"]
    assert above == sorted(above, reverse=True)


def test_lens_ends_in_the_models_own_distribution(cutaway: Any, tiny: Path) -> None:
    code, out, err = cutaway("lens", "once", "-m", tiny)
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 1 + 5)
    best = json.loads(cutaway("next", "once", "-m", tiny, "--json").out)["top"]
    assert lines[-1].split()[:2] == ["blocks.1.resid_post", f"{best[0]['p']:.4%}"]
    assert lines[-1].split()[-1] == "1"
    document = json.loads(cutaway("lens", "once", "-m", tiny, "--json").out)
    assert document["end"]["id"] == best[0]["id"]
    for found, expected in zip(document["stops"][-1]["top"], best, strict=True):
        assert (found["id"], found["text"]) == (expected["id"], expected["text"])
        assert found["p"] == pytest.approx(expected["p"], abs=1e-6)
    assert [stop["stop"] for stop in document["stops"]][:2] == ["blocks.0.resid_pre", "blocks.0.resid_mid"]


def test_models(cutaway: Any) -> None:
    code, out, _ = cutaway("models")
    assert code == 0
    assert "stories" in out
    (stories,) = (m for m in json.loads(cutaway("models", "--json").out)["models"] if m["name"] == "stories")
    assert stories["source"] == "bundled"
    assert stories["problem"] is None


def test_verify(cutaway: Any, tiny: Path) -> None:
    pytest.importorskip("transformers", reason="is what verify compares with")
    code, out, _ = cutaway("verify", tiny)
    assert code == 0
    assert "agrees" in out
    assert json.loads(cutaway("verify", tiny, "--json").out)["relative"] < 1e-5


def test_doctor(cutaway: Any) -> None:
    _, out, _ = cutaway("doctor")
    assert torch.__version__ in out
    names = {finding["name"] for finding in json.loads(cutaway("doctor", "--json").out)["findings"]}
    assert {"cutaway", "python", "torch", "page", "bundled", "model cache"} <= names


def test_train_says_what_is_wrong_before_it_starts(cutaway: Any, tmp_path: Path) -> None:
    assert cutaway("train", "no-such-recipe").code == 3
    code, _, err = cutaway("train", "stories", "steps=many")
    assert (code, err.splitlines()[0]) == (2, "steps must be a whole number, not 'many'.")
    assert cutaway("train", "stories", "steps").code == 2


def test_look_is_given_what_was_asked(cutaway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("cutaway.serve.app.look", lambda *a, **k: asked.append((a, k)) or 130)
    assert cutaway("look", "once", "-m", "stories", "--port", 8000, "--no-browser").code == 130
    assert cutaway("look").code == 130
    assert cutaway("look", "-m", "stories", "--quantize", "int8", "--dtype", "float32", "--device", "cpu").code == 130
    assert asked == [
        (("once",), {"model": "stories", "port": 8000, "browser": False, "how": How()}),
        ((None,), {"model": None, "port": None, "browser": True, "how": How()}),
        ((None,), {"model": "stories", "port": None, "browser": True, "how": How("int8", "float32", "cpu")}),
    ]
    assert cutaway("look", "--port", 0).code == 2
    assert cutaway("look", "--port", 70000).code == 2


# --- text from anywhere, to a terminal -------------------------------------------------------------------------------


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("raw", [b"once", b"once\n", b"once\r\n", b"\xef\xbb\xbfonce\n"])
def test_standard_input(raw: bytes, cutaway: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, raw)
    assert json.loads(cutaway("tokens", "-", "-m", tiny, "--json").out) == json.loads(
        cutaway("tokens", "once", "-m", tiny, "--json").out
    )


@pytest.mark.parametrize(
    "text", ["a\x00b", "😀👩‍👩‍👧", "مرحبا بالعالم", "\u202eabc", "e\u0301" * 10, " ", "\n"], ids=ascii
)
def test_unusual_text_is_fine(text: str, cutaway: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("tokens", "next"):
        stdin(monkeypatch, text.encode() + b"\n")
        document = json.loads(cutaway(command, "-", "-m", tiny, "--json").out)
        ids = [t["id"] if command == "tokens" else t for t in document["tokens"]]
        assert bytes(ids) == text.encode()[-32 if command == "next" else 0 :]


def test_a_text_may_begin_with_a_hyphen(cutaway: Any, tiny: Path) -> None:
    document = json.loads(cutaway("tokens", "-m", tiny, "--json", "--", "--debug").out)
    assert len(document["tokens"]) == 7


def test_what_a_model_writes_cannot_command_the_terminal(cutaway: Any, tiny: Path, monkeypatch: Any) -> None:
    stdin(monkeypatch, "a\x1b[31mred\u202e\x9b31m\x07\r\ttab".encode())
    _, out, _ = cutaway("generate", "-", "-m", tiny, "--max-new-tokens", 1, "--seed", 1)
    assert not set(out) & set("\x1b\u202e\x9b\x07\r")
    assert out.startswith("a⟨U+001B⟩[31mred⟨U+202E⟩⟨U+009B⟩31m⟨U+0007⟩⟨U+000D⟩\ttab")
    stdin(monkeypatch, b"a\x1b[31m")
    out = cutaway("generate", "-", "-m", tiny, "--max-new-tokens", 1, "--json").out
    assert out.isascii()
    assert "\x1b" not in out


# --- how they say no -------------------------------------------------------------------------------------------------


def test_generate_with_a_draft_writes_the_same(cutaway: Any, tiny: Path) -> None:
    options = ("-m", tiny, "--max-new-tokens", 12, "--seed", 5)
    plain = cutaway("generate", "once once once", *options)
    for draft in ("prompt", str(tiny)):
        ahead = cutaway("generate", "once once once", *options, "--draft", draft)
        assert ahead.out == plain.out
        assert "guesses came" in ahead.err
    document = json.loads(cutaway("generate", "once once once", *options, "--draft", "prompt", "--json").out)
    assert document["draft"].keys() == {"model", "proposed", "accepted", "runs"}
    refused(cutaway("generate", "once", *options, "--draft", "prompt", "--beams", 2), 2, "a draft guesses one")


def refused(outcome: Any, code: int, says: str) -> None:
    """One clear sentence and one remedy on standard error; nothing on standard output."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert says in outcome.err
    assert "Traceback" not in outcome.err
    assert 1 <= len(outcome.err.splitlines()) <= 2, outcome.err


@pytest.mark.parametrize("command", ["next", "generate", "tokens", "run"])
def test_bad_text(command: str, cutaway: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(cutaway(command, "", "-m", tiny), 2, "The text is empty.")
    refused(cutaway(command, "a\udcff", "-m", tiny), 2, "lone surrogate, U+DCFF, is at character 1")
    for raw, says in [
        (b"a" * 2**20, "1,048,576 characters; at most 1,000,000"),
        (b"a" * 5_000_000, "more than 4,194,304 bytes"),
        (b"a\xff", "not UTF-8: byte 1 is 0xFF"),
        (b"\n", "empty"),
    ]:
        stdin(monkeypatch, raw)
        refused(cutaway(command, "-", "-m", tiny), 2, says)


@pytest.mark.parametrize("command", ["next", "generate", "run"])
def test_a_text_longer_than_the_context_says_what_is_kept(command: str, cutaway: Any, tiny: Path) -> None:
    code, _, err = cutaway(command, "a" * 100, "-m", tiny)
    assert code == 0
    assert "The text has 100 tokens and the model reads at most 32: kept the last" in err


@pytest.mark.parametrize(
    "options",
    [
        ("--temperature", "-1"), ("--temperature", "nan"), ("--temperature", "hot"), ("--top-p", "0"), ("--top-p", "2"),
        ("--top-k", "-1"), ("--top-k", "2.5"), ("--min-p", "-1"), ("--repetition-penalty", "0"),
        ("--max-new-tokens", "0"), ("--stop", ""), ("--beams", "0"), ("--beams", "2", "--temperature", "0.5"),
        ("--nonsense",), ("more", "words"), ("--device", "toaster"), ("--dtype", "float99"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_settings_that_make_no_sense(options: tuple[str, ...], cutaway: Any, tiny: Path) -> None:
    outcome = cutaway("generate", "once", "-m", tiny, *options)
    assert outcome.code == 2, outcome
    assert outcome.out in {"", "once"}
    assert len(outcome.err.splitlines()) <= 2


def test_models_that_are_not_there(cutaway: Any, tmp_path: Path) -> None:
    for command in (["next", "a", "-m"], ["generate", "a", "-m"], ["tokens", "a", "-m"], ["run", "a", "-m"], ["names"]):
        refused_here = cutaway(*command, "nobody/nothing")
        assert refused_here.code == 3
        assert "hub cannot be reached" in refused_here.err
        assert cutaway(*command, tmp_path / "nowhere").code == 3
    (tmp_path / "empty").mkdir()
    assert cutaway("next", "a", "-m", tmp_path / "empty").code == 3


def test_a_model_without_a_tokenizer(cutaway: Any, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    for command in ("next", "generate", "run"):
        refused(cutaway(command, "a", "-m", folder), 2, "without a tokenizer")
    refused(cutaway("tokens", "a", "-m", folder), 3, "has no tokenizer")
    assert cutaway("names", folder).code == 0


def test_hostile_and_broken_checkpoints(cutaway: Any, tiny: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny, tmp_path / name))

    folders = {}
    folders["truncated"] = copy("truncated")
    weights = folders["truncated"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    folders["lying header"] = copy("lying")
    (folders["lying header"] / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    folders["wrong shape"] = copy("shape")
    say(folders["wrong shape"], intermediate_size=25)
    folders["a missing layer"] = copy("missing")
    say(folders["a missing layer"], num_hidden_layers=3)
    folders["an extra layer"] = copy("extra")
    say(folders["an extra layer"], num_hidden_layers=1)
    folders["an unknown family"] = copy("unknown")
    say(folders["an unknown family"], model_type="oracle")
    folders["a trillion parameters"] = copy("trillion")
    say(folders["a trillion parameters"], hidden_size=2**20, intermediate_size=2**20)
    folders["20,000 layers"] = copy("layers")
    say(folders["20,000 layers"], num_hidden_layers=20_000)
    folders["a hostile tokenizer"] = copy("tokenizer")
    crafted = {"type": "Precompiled", "precompiled_charsmap": "////////////////"}
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    (folders["a hostile tokenizer"] / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": crafted}))
    folders["only a pickle"] = copy("pickle")
    (folders["only a pickle"] / "model.safetensors").rename(folders["only a pickle"] / "pytorch_model.bin")
    folders["a shard elsewhere"] = copy("shard")
    (folders["a shard elsewhere"] / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "../truncated/model.safetensors"}}
    (folders["a shard elsewhere"] / "model.safetensors.index.json").write_text(json.dumps(index))

    folders["weights that are not numbers"] = copy("nan")
    weights = folders["weights that are not numbers"] / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, weights)

    for name, folder in folders.items():
        before = sorted(folder.iterdir())
        start = time.monotonic()
        outcome = cutaway("next", "once", "-m", folder)
        assert outcome.code == 4, (name, outcome)
        assert outcome.out == "", name
        assert 1 <= len(outcome.err.splitlines()) <= 2, (name, outcome.err)
        assert time.monotonic() - start < 10, name
        assert sorted(folder.iterdir()) == before, name


def test_nothing_is_half_written(cutaway: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(cutaway("run", "a", "-m", tiny, "--save", tmp_path / "no" / "x.cutaway"), 2, "There is no folder")
    refused(cutaway("run", "a", "-m", tiny, "--save", tmp_path), 2, "is a folder")
    target = tmp_path / "out" / "run.cutaway"
    target.parent.mkdir()
    target.write_text("an earlier one")

    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("safetensors.torch.save_file", full)
    refused(cutaway("run", "a", "-m", tiny, "--save", target), 1, "No space left on device")
    assert [path.name for path in target.parent.iterdir()] == ["run.cutaway"]
    assert target.read_text() == "an earlier one"


def test_unknown_names_are_refused(cutaway: Any, tiny: Path) -> None:
    outcome = cutaway("run", "a", "-m", tiny, "--keep", "blocks.9.nothing")
    assert outcome.code == 2
    assert "blocks.9.nothing" in outcome.err


def test_a_surprise_is_one_line_and_debug_shows_it_all(
    cutaway: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*arguments: Any) -> None:
        raise ZeroDivisionError("who would have thought")

    monkeypatch.setattr("cutaway.inputs.text.Tokenizer.open", surprise)
    code, out, err = cutaway("tokens", "a", "-m", tiny)
    assert (code, out) == (1, "")
    assert err == "ZeroDivisionError: who would have thought\nRun it again with --debug to see where it came from.\n"
    assert "Traceback" in cutaway("tokens", "a", "-m", tiny, "--debug").err


def test_a_wrong_verb_gets_a_suggestion(cutaway: Any) -> None:
    refused(cutaway("genrate", "a"), 2, 'Did you mean "generate"?')
    refused(cutaway("next"), 2, "See cutaway next --help.")


def test_without_a_command_it_shows_what_there_is(cutaway: Any) -> None:
    code, out, _ = cutaway()
    assert code == 0
    assert "Commands:" in out


def test_generate_keeps_keys_and_values_as_asked(kernels: None, cutaway: Any) -> None:
    import cutaway as package

    asked = ("generate", "Once upon a time", "--temperature", 0, "--max-new-tokens", 9, "--json")
    found = [step["p"] for step in json.loads(cutaway(*asked, "--cache", "int8").out)["tokens"]]
    for cache, same in (("int8", True), (None, False)):
        steps = package.load("stories", cache=cache).generate(
            "Once upon a time", temperature=0, max_new_tokens=9, stream=True
        )
        assert (found == [step.p for step in steps]) is same  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cache", "int4"], "Keys and values are kept in int8 by choice, not in 'int4'."),
        (["--cache", "int8", "--dtype", "float16"], "reads no float16"),
    ],
)
def test_what_no_cache_is_kept_in_is_said(cutaway: Any, options: list[str], says: str) -> None:
    found = cutaway("generate", "Once", *options)
    assert found.code == 2
    assert says in found.err


def test_quantize_writes_a_folder_and_tells_the_loss(cutaway: Any, tmp_path: Path) -> None:
    passage = tmp_path / "passage.txt"
    passage.write_text("Once upon a time there was a little girl who lived in a house near the forest. " * 4)
    code, out, _ = cutaway("quantize", "stories", tmp_path / "small", "--to", "int4", "--text", passage)
    assert code == 0
    first, second = out.splitlines()
    assert first == f"{tmp_path / 'small'}: int4, 1.9 MB, where stories has 5.1 MB"
    assert "nats per token before" in second
    document = json.loads(
        cutaway("quantize", "stories", tmp_path / "other", "--to", "int8", "--text", passage, "--json").out
    )
    assert 0 < abs(document["change"]) < 0.01
    assert document["loss_after"] == pytest.approx(document["loss_before"] * (1 + document["change"]))
    written = cutaway("generate", "Once", "-m", tmp_path / "small", "--seed", 1, "--max-new-tokens", 5)
    asked = cutaway("generate", "Once", "--quantize", "int4", "--seed", 1, "--max-new-tokens", 5)
    assert (written.code, written.out) == (0, asked.out)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [(["--to", "int3"], 2, "int8 or int4"), (["--to", "int8", "--text", "no.txt"], 3, "no.txt"), ([], 2, "--to")],
)  # fmt: skip
def test_quantize_says_what_it_wants(cutaway: Any, tmp_path: Path, options: list[str], code: int, says: str) -> None:
    found = cutaway("quantize", "stories", tmp_path / "small", *options)
    assert found.code == code
    assert says in found.err
    assert not (tmp_path / "small").exists()
