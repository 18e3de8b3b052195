"""translate and summarize: what they print is what Python says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutaway import load
from cutaway.api import Model
from tests.tasks.test_rewrite import TEXT, marian, opus, spm, t5

__all__ = ["marian", "opus", "spm", "t5"]  # fixtures


def test_a_search_is_printed_when_it_is_done(cutaway: Any, opus: Callable[..., Model]) -> None:
    folder = opus().folder
    found = load(folder).translate("the fox")
    code, out, err = cutaway("translate", "the fox", "-m", folder)
    assert code == 0
    assert out == found.text + "\n"
    assert err == f"{len(found.tokens)} tokens, finish reason: {found.finish_reason}.\n"
    told = json.loads(cutaway("translate", "the fox", "-m", folder, "--json").out)
    assert [step["id"] for step in told["tokens"]] == found.tokens
    assert told["read"] == found.prompt


def test_a_draw_is_printed_as_it_is_written(cutaway: Any, opus: Callable[..., Model]) -> None:
    folder = opus().folder
    how = ["--temperature", 0.9, "--seed", 4, "--max-new-tokens", 6]
    drawn = load(folder).translate("the fox", temperature=0.9, seed=4, max_new_tokens=6)
    code, out, err = cutaway("translate", "the fox", "-m", folder, *how)
    assert (code, out) == (0, drawn.text + "\n")
    assert "seed 4" in err
    told = json.loads(cutaway("translate", "the fox", "-m", folder, *how, "--json").out)
    assert told["settings"] == {"temperature": 0.9, "seed": 4, "max_new_tokens": 6}
    assert "".join(step["text"] for step in told["tokens"]) == drawn.text


def test_tasks_and_prefixes(cutaway: Any, t5: Callable[..., Model]) -> None:
    model = t5()
    folder = model.folder
    assert cutaway("summarize", TEXT, "-m", folder).out == model.summarize(TEXT).text + "\n"
    code, _, err = cutaway("translate", TEXT, "-m", folder)
    assert code == 2
    assert err.startswith(f"{folder} knows 2 translations")
    told = json.loads(cutaway("translate", TEXT, "-m", folder, "--task", "translation_en_to_fr", "--json").out)
    assert told["read"] == model.tokens("to French: " + TEXT)
    told = json.loads(cutaway("translate", TEXT, "-m", folder, "--prefix", "x ", "--max-new-tokens", 2, "--json").out)
    assert told["read"] == model.tokens("x " + TEXT)
    for wrong in (["--beams", 2, "--temperature", 1], ["--task", "none"], ["--max-new-tokens", 0], ["--top-p", 3]):
        assert cutaway("translate", TEXT, "-m", folder, "--prefix", "", *wrong).code == 2
    for verb in ("generate", "next", "fill", "classify", "embed"):
        code, _, err = cutaway(verb, TEXT, "-m", folder)
        assert code == 2
        assert "turns one text into another" in err
    assert cutaway("translate", TEXT).code == 2  # no model comes along that translates
    assert "continues a text" in cutaway("translate", TEXT, "-m", "stories").err


def test_a_run_and_its_names(cutaway: Any, opus: Callable[..., Model]) -> None:
    folder = opus().folder
    code, out, _ = cutaway("run", "the fox", "--target", "der", "-m", folder)
    assert code == 0
    assert "tokens read" in out.splitlines()[0]
    assert "decoder.blocks.1.cross.pattern" in out
    code, out, err = cutaway("names", folder)
    assert code == 0
    assert "H T S" in next(line for line in out.splitlines() if "0.cross.pattern" in line)
    assert "S tokens that the encoder reads." in err


def test_a_number_of_either_side_is_explained(cutaway: Any, opus: Callable[..., Model]) -> None:
    model = opus(separate=True)
    read = ["--text", "the fox", "--target", "der", "-m", model.folder]
    run = model.run("the fox", target="der")
    told = json.loads(cutaway("explain", "decoder.blocks.1.cross.k[1,2,3]", *read, "--json").out)
    assert told["terms"][0]["factors"][0]["cell"] == "encoder.final[1,0]"
    assert told.pop("model") == str(model.folder)
    assert told == run.explain("decoder.blocks.1.cross.k[1,2,3]").to_json()
    out = cutaway("explain", "decoder.blocks.1.cross.pattern[0,1,1]", *read).out
    pieces = run.pieces[1]["text"], run.source_pieces[1]["text"]
    assert f"head 0, position 1 {pieces[0]!r}, source position 1 {pieces[1]!r}" in out
    out = cutaway("explain", "logits[1,9]", *read).out
    assert f"token 9 {run.vocabulary()[9]!r}" in out
    code, _, err = cutaway("explain", "encoder.blocks.0.attn.kinds[0,0]", *read)
    assert code == 2
    assert "not a number the model computes" in err


def test_heads_lens_and_compare_show_both_sides(cutaway: Any, opus: Callable[..., Model]) -> None:
    model = opus(separate=True)
    folder, run = model.folder, model.run("the fox", target="der Mond")
    told = json.loads(cutaway("heads", "the fox", "--target", "der Mond", "-m", folder, "--json").out)
    assert len(told["heads"]) == 16  # 2 sides, 2 blocks, 4 heads
    one = next(one for one in told["heads"] if (one["side"], one["block"], one["head"]) == ("encoder", 1, 2))
    assert list(one["scores"].values()) == run["encoder.blocks.1.attn.kinds"][2].tolist()
    out = cutaway("heads", "the fox", "--target", "der Mond", "-m", folder).out.splitlines()
    assert out[0].startswith("side     block head")
    assert {line.split()[0] for line in out[1:]} == {"encoder", "decoder"}
    told = json.loads(cutaway("lens", "the fox", "--target", "der Mond", "-m", folder, "--json").out)
    assert [stop["stop"] for stop in told["stops"]] == run.stops()
    assert told["end"]["id"] == int(run["logits.last"].argmax())
    assert told["end"]["text"] == model.tokenizer.target.pieces([told["end"]["id"]])[0].text
    assert cutaway("lens", "the fox", "-m", folder).code == 0
    code, out, _ = cutaway("compare", "the fox", "the moon", "-m", folder)
    assert code == 0
    assert out.startswith("They part at token 2: f in the first, m in the second.")


@pytest.mark.parametrize("how", [["--temperature", 0], ["--beams", 3]])
def test_a_quantised_translator(cutaway: Any, opus: Callable[..., Model], tmp_path: Path, how: list[Any]) -> None:
    folder, small = opus().folder, tmp_path / "small"
    code, out, _ = cutaway("quantize", folder, small, "--to", "int4")
    assert (code, out.splitlines()) == (0, [out.rstrip("\n")])
    written = cutaway("translate", "the fox", "-m", small, *how)
    asked = cutaway("translate", "the fox", "-m", folder, "--quantize", "int4", *how)
    assert (written.code, asked.code) == (0, 0)
    assert written.out == asked.out == cutaway("translate", "the fox", "-m", small, *how).out
    assert cutaway("translate", "the fox", "-m", folder, "--quantize", "int3").code == 2


def test_how_well_a_translator_predicts_a_text_is_not_asked(cutaway: Any, opus: Callable[..., Model]) -> None:
    folder = opus().folder
    small, text = folder / "small", folder / "text.txt"
    text.write_text("the fox " * 30)
    code, out, err = cutaway("quantize", folder, small, "--to", "int8", "--text", text)
    assert (code, out) == (2, "")
    assert f"{folder} turns one text into another; --text is for models that continue one." in err
    assert not small.exists()
