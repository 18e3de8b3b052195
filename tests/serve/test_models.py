"""The worker's engine with a real model: the bundled one."""

from __future__ import annotations

import gc
import json
import os
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cutaway
from cutaway import hub
from cutaway.errors import Failed, Misuse, NotFound
from cutaway.native.threads import one_thread
from cutaway.serve.app import build
from cutaway.serve.limits import Limits
from cutaway.serve.models import PIECE, How, Models, identity, listed
from cutaway.serve.supervisor import Supervisor
from cutaway.serve.worker import MALLOC, Cancelled, TooLarge
from tests.serve.served import PORT, TOKEN, client_of
from tests.serve.test_app import linux, memory

pytestmark = pytest.mark.skipif(not hub.bundled(), reason="no model is bundled in this checkout")

TEXT = "Once upon a time there was a"
WANT = ["embed", "river", "blocks.*.attn.pattern", "blocks.*.mlp.hidden", "logits.last"]


def never() -> None:
    """Nobody has left."""


@pytest.fixture(scope="module")
def models() -> Models:
    return started()


def started(**limits: int) -> Models:
    events: list[dict] = []
    models = Models(events.append, limits=replace(Limits(), **limits))
    models.start()
    assert [one["id"] for one in events[0]["models"]][:1] == ["stories"]
    assert events[1] == {"stage": "importing torch"}
    models.load(never, model="stories")
    return models


def run(models: Models, check=never, text: str | None = TEXT, tokens=None, want=()) -> tuple[str, bytes]:
    wants = [{"name": one, "at": None} if isinstance(one, str) else one for one in want]
    given = {"tokens": tokens} if text is None else {"text": text}
    answer, body = models.run(check, model="stories", given=given, want=wants)
    return answer["record"], body


def opened(body: bytes, folder: Path) -> cutaway.Record:
    (folder / "run.cutaway").write_bytes(body)
    return cutaway.open(folder / "run.cutaway")


@torch.no_grad()
def test_the_answer_is_what_the_model_computes(models: Models, tmp_path: Path) -> None:
    record = opened(run(models, want=WANT)[1], tmp_path)
    model = cutaway.load("stories")
    with one_thread():  # as the server runs so small a model: a product may be summed in another order by more
        direct = model.run(TEXT)
    assert record.tokens == direct.tokens
    assert record.text == TEXT
    assert record.pieces == direct.pieces
    assert record.model.name == "stories"
    for name in record.tensors:
        torch.testing.assert_close(record[name], direct[name], rtol=0, atol=0)
    layers = len(model.spec.stack.blocks)
    assert len(record.tensors) == 3 + 2 * layers
    np.testing.assert_allclose(record["logits.last"].double(), model.next(TEXT).logits, atol=1e-4)


def test_only_what_is_wanted_is_sent(models: Models, tmp_path: Path) -> None:
    record = opened(run(models, want=[{"name": "blocks.1.mlp.hidden", "at": "-1"}])[1], tmp_path)
    assert list(record.tensors) == ["blocks.1.mlp.hidden[-1]"]
    want = [{"name": "blocks.*.attn.pattern", "at": "3,2:4"}, {"name": "weights.*.down.weight", "at": "7"}]
    record = opened(run(models, want=want)[1], tmp_path)
    assert "blocks.4.attn.pattern[3,2:4]" in record.tensors
    assert record.axes("blocks.4.attn.pattern[3,2:4]") == ("T", "T")
    direct = cutaway.load("stories").run(TEXT)
    for name in (*record.tensors, "weights.stack.blocks.2.mlp.down.weight[7]"):
        torch.testing.assert_close(record[name], direct[name])
    assert opened(run(models)[1], tmp_path).tensors == {}


def test_tokens_are_run_as_they_are_and_their_text_is_told(models: Models, tmp_path: Path) -> None:
    ids = opened(run(models)[1], tmp_path).tokens
    record = opened(run(models, text=None, tokens=ids)[1], tmp_path)
    assert record.tokens == ids
    assert record.text == TEXT


def test_slices_are_read_from_the_kept_record(models: Models) -> None:
    id, _ = run(models)
    direct = cutaway.load("stories").run(TEXT)
    for name, at in (
        ("blocks.2.attn.pattern", "3"),
        ("blocks.2.attn.pattern", "3,2:4"),
        ("blocks.0.attn.q", None),
        ("logits", "-1"),
        ("lens.ids", "-1"),
        ("blocks.1.attn.kinds", None),
        ("weights.stack.blocks.0.mlp.down.weight.T", "7"),
    ):
        answer, body = models.tensor(never, record=id, name=name, at=at)
        expected = direct[name if at is None else f"{name}[{at}]"]
        got = np.frombuffer(body, "<f4").reshape(answer["shape"])
        np.testing.assert_allclose(got, expected.detach(), atol=1e-5)


def test_what_is_not_there(models: Models) -> None:
    id, _ = run(models)
    with pytest.raises(NotFound, match="no longer kept"):
        models.tensor(never, record="0" * 16, name="embed", at=None)
    with pytest.raises(NotFound, match="no tensor"):
        models.tensor(never, record=id, name="blocks.99.attn.q", at=None)
    with pytest.raises(Misuse, match="out of range"):
        models.tensor(never, record=id, name="embed", at="99")
    with pytest.raises(NotFound, match="no tensor"):
        models.tensor(never, record=id, name="weights.nothing", at=None)
    with pytest.raises(Misuse, match="matches"):
        run(models, want=["nothing.*"])
    with pytest.raises(Misuse):
        run(models, text=None, tokens=[10**6])
    with pytest.raises(Misuse):
        run(models, text=None, tokens=[])


def test_of_a_text_longer_than_the_context_the_end_is_kept_and_the_record_says_so(
    models: Models, tmp_path: Path
) -> None:
    ids = [5 + i for i in range(600)]
    record = opened(run(models, text=None, tokens=ids)[1], tmp_path)
    assert record.tokens == ids[-512:]
    assert "600 tokens and the model reads at most 512" in record.settings["notes"][0]


def test_an_answer_is_bounded_before_it_is_made() -> None:
    models = started(answer_bytes=1 << 20)
    id, _ = run(models, text=None, tokens=[5] * 400)
    with pytest.raises(TooLarge, match="1 are sent"):
        run(models, text=None, tokens=[5] * 400, want=["blocks.*.attn.pattern"])
    for name, at in (
        ("logits", None),
        ("logits", "0:70,5"),  # of one token each, but all the vocabulary is computed
        ("logits.top.ids", None),
        ("logits.rest", None),
        ("blocks.0.attn.scores", None),
        ("blocks.0.attn.pattern", ":2"),
        ("lens.p", None),
        ("lens.rank", "0:6,0"),
        ("blocks.0.mlp.promotes.ids", None),
        ("blocks.0.mlp.demotes.values", ":70,0"),
        ("weights.stem.tokens.weight", None),
        ("weights.stem.tokens.weight.T", "0:70"),
    ):
        with pytest.raises(TooLarge):
            models.tensor(never, record=id, name=name, at=at)
    for name, at in (
        ("blocks.0.attn.scores", "0"),
        ("blocks.0.attn.pattern", ":,5:9"),
        ("blocks.0.attn.z", None),  # one head's pattern at a time
        ("blocks.0.attn.kinds", None),
        ("lens.p", "-1"),
        ("blocks.0.mlp.promotes.ids", "7"),
        ("weights.stem.tokens.weight", "3:5"),
    ):
        models.tensor(never, record=id, name=name, at=at)


def test_a_record_too_large_for_an_answer_computes_nothing_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    models = started(answer_bytes=1 << 20)
    id, _ = run(models, text=None, tokens=[5] * 400)
    monkeypatch.setattr(cutaway.Record, "__getitem__", lambda *_: pytest.fail("something was computed"))
    for name in ("lens.ids", "logits", "blocks.0.attn.pattern", "blocks.0.mlp.demotes.ids"):
        with pytest.raises(TooLarge):
            models.tensor(never, record=id, name=name, at=None)


def test_the_whole_file_of_a_kept_record(models: Models, tmp_path: Path) -> None:
    id, _ = run(models)
    _, body = models.file(never, record=id, include=["blocks.1.attn.pattern"], weights=["stem.tokens.weight"])
    record = opened(body, tmp_path)
    direct = models._kept_record(id)
    assert {*direct.tensors, "blocks.1.attn.pattern", "logits.last"} <= record.tensors.keys()
    torch.testing.assert_close(record["blocks.1.attn.pattern"], direct["blocks.1.attn.pattern"], rtol=0, atol=0)
    torch.testing.assert_close(record.weights["stem.tokens.weight"], direct.weights["stem.tokens.weight"])
    with pytest.raises(Misuse, match="nothing.at.all"):
        models.file(never, record=id, include=["nothing.at.all"], weights=[])
    with pytest.raises(NotFound, match="no longer kept"):
        models.file(never, record="0" * 16, include=[], weights=[])


def test_a_file_of_what_the_page_shows_opens_every_stop(models: Models, tmp_path: Path) -> None:
    id, _ = run(models)
    _, body = models.file(never, record=id, include=["shown"], weights=[])
    record = opened(body, tmp_path)
    for name in ("river", "blocks.4.attn.pattern", "blocks.4.attn.kinds", "blocks.0.mlp.promotes.ids", "lens.p"):
        assert name in record.tensors
    assert record.vocabulary()[259] == "␣a"


def test_a_file_is_bounded_before_it_is_made() -> None:
    models = started(answer_bytes=4 << 20)
    id, _ = run(models, text=None, tokens=[5] * 100)
    with pytest.raises(TooLarge, match="4 are sent"):
        models.file(never, record=id, include=["shown"], weights=[])
    models.file(never, record=run(models)[0], include=[], weights=[])
    for include, weights in ((["*"], []), ([], ["*"])):
        with pytest.raises(TooLarge, match="4 are sent"):
            models.file(never, record=id, include=include, weights=weights)


def test_an_explanation_is_json_and_bounded(models: Models) -> None:
    id, _ = run(models)
    _, body = models.explain(never, record=id, cell="blocks.0.attn.scores[0,1,0]")
    told = json.loads(body, parse_constant=pytest.fail)
    direct = cutaway.load("stories").run(TEXT)["blocks.0.attn.scores"][0, 1, 0]
    assert told["value"] == pytest.approx(float(direct))
    assert told["total"] == pytest.approx(told["value"], abs=1e-5)
    assert told["terms"]
    with pytest.raises(Misuse):
        models.explain(never, record=id, cell="blocks.0.attn.scores[0,1]")
    few = started(terms=len(told["terms"]) - 1)
    with pytest.raises(TooLarge, match="terms; at most"):
        few.explain(never, record=run(few)[0], cell="blocks.0.attn.scores[0,1,0]")


def test_two_runs_are_compared(models: Models) -> None:
    first, second = (run(models)[0] for _ in range(2))
    _, body = models.compare(never, first=first, second=second, at=[-1, -1])
    told = json.loads(body, parse_constant=pytest.fail)
    assert told["parts_at"] is None
    assert told["changes"] == []
    with pytest.raises(NotFound):
        models.compare(never, first=first, second="0" * 16, at=[0, 0])


def started_with_two(tmp_path: Path, **limits: int) -> Models:
    """The bundled model under two names, both listed, the second not yet loaded."""
    models = started(**limits)
    folder = shutil.copytree(hub.find("stories"), tmp_path / "twin")
    models._list["twin"] = replace(models._list["stories"], id="twin", folder=folder)
    return models


def test_two_models_stay_loaded_and_a_record_outlives_the_change(tmp_path: Path) -> None:
    models = started_with_two(tmp_path)
    id, _ = run(models)
    models.load(never, model="twin")
    answer, _ = models.run(never, model="twin", given={"text": TEXT}, want=[])
    mine, its = (models.tensor(never, record=one, name="logits.last", at=None)[1] for one in (id, answer["record"]))
    assert mine == its
    assert opened(models.file(never, record=answer["record"], include=[], weights=[])[1], tmp_path).model.name == "twin"


def test_a_model_that_has_to_go_is_gone_and_its_records_with_it(tmp_path: Path) -> None:
    models = started_with_two(tmp_path, models_bytes=15_000_000)  # one of 10.6 MB, not two
    assert models._list["stories"].bytes == sum(
        weight.nbytes for weight in models._models["stories"].machine.parameters()
    )
    id, _ = run(models)
    weights = [weakref.ref(weight) for weight in models._models["stories"].machine.parameters()]
    told: list[dict] = []
    models._tell = told.append
    models.load(never, model="twin")
    gc.collect()
    assert not any(weight() is not None for weight in weights)
    assert [event["loaded"] for event in told if "loaded" in event] == [[], ["twin"]]
    assert models._kept == 0
    with pytest.raises(NotFound, match="no longer kept"):
        models.tensor(never, record=id, name="embed", at=None)
    with pytest.raises(NotFound, match="not loaded"):
        run(models)
    models.load(never, model="stories")
    run(models)


@linux
def test_many_changes_of_model_take_no_more_memory(tmp_path: Path) -> None:
    models = started_with_two(tmp_path, models_bytes=15_000_000)

    def change() -> None:
        for model in ("twin", "stories"):
            models.load(never, model=model)
            models.run(never, model=model, given={"text": TEXT}, want=[])

    for _ in range(3):
        change()
    before = memory(os.getpid())
    for _ in range(10):
        change()
    assert memory(os.getpid()) - before < 25_000_000  # twenty models of 10.6 MB were loaded


def test_where_memory_is_short_the_others_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = started_with_two(tmp_path)
    load = cutaway.api.load

    def short_of_memory(folder, **options):
        if models._models:
            raise Failed("The model needs 9.0 GiB of memory and 1.0 GiB are free.")
        return load(folder, **options)

    monkeypatch.setattr(cutaway.api, "load", short_of_memory)
    models.load(never, model="twin")
    assert list(models._models) == ["twin"]


def test_a_load_tells_its_stages_and_can_be_stopped(tmp_path: Path) -> None:
    models = started_with_two(tmp_path)
    stages: list[str] = []
    models._tell = lambda event: stages.append(event.get("stage", ""))
    asked = 0

    def leaves() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        models.load(leaves, model="twin")
    assert list(models._models) == ["stories"]
    models.load(never, model="twin")
    assert stages[0] == "reading twin: 0 of 5 MB"  # stored in bfloat16
    assert "first run of twin" in stages


def test_records_are_bounded_by_bytes() -> None:
    models = started(record_bytes=8_000_000, kept_bytes=4_000_000)
    first, _ = run(models)
    ids = [run(models, text=None, tokens=[5] * 60)[0] for _ in range(20)]
    assert models._kept <= 4_000_000
    assert models._kept == sum(size for _, size in models._records.values())
    models.tensor(never, record=ids[-1], name="embed", at=None)
    with pytest.raises(NotFound):
        models.tensor(never, record=first, name="embed", at=None)
    with pytest.raises(TooLarge, match="at most 7 are made"):
        run(models, text=None, tokens=[5] * 512)


def test_a_run_stops_between_blocks_when_nobody_waits(models: Models) -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(models, check)
    assert asked == 3  # of six blocks
    run(models)


def test_the_vocabulary_has_a_text_for_every_id(models: Models) -> None:
    _, body = models.vocabulary(never, model="stories")
    texts = json.loads(body)
    assert len(texts) == listed()["stories"].entry()["vocabulary"]
    assert all(isinstance(text, str) and text for text in texts)


def test_a_folder_is_listed_under_its_name_and_first(tmp_path: Path) -> None:
    named = shutil.copytree(hub.find("stories"), tmp_path / "copy")
    assert identity(named) == "local/copy"
    assert identity("stories") == "stories"
    assert next(iter(listed(str(named)))) == "local/copy"
    assert listed(str(named))["local/copy"].source == "local"
    with pytest.raises(NotFound):
        listed(str(tmp_path / "nothing"))


def test_the_whole_way(page: Path) -> None:
    """The real worker behind the real application: a text in, a .cutaway file out."""
    patient = Supervisor(limits=replace(Limits(), run_seconds=250))  # importing torch on a busy machine
    gate = build(patient, port=PORT, token=TOKEN, page=page)
    with client_of(gate) as client:
        answer = client.post("/api/run", json={"model": "stories", "text": TEXT, "want": [{"name": "river"}]})
        assert answer.status_code == 200, answer.text
        header = json.loads(answer.content[8 : 8 + int.from_bytes(answer.content[:8], "little")])
        assert list(header) == ["__metadata__", "river"]
        tensor = client.get(f"/api/records/{answer.headers['x-record']}/tensor?name=blocks.0.attn.pattern&at=1")
        assert tensor.status_code == 200
        length = int(tensor.headers["x-shape"].split(",")[0])
        rows = np.frombuffer(tensor.content, "<f4").reshape(length, length)
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-5)
        vocabulary = client.get("/api/models/stories/vocabulary").json()
        assert len(vocabulary) == client.get("/api/models").json()[0]["vocabulary"]
        long = client.post("/api/run", json={"model": "stories", "text": "word " * 30_000})
        assert long.status_code == 413
        assert "100,000" in long.json()["error"]["message"]


def test_a_keystroke_runs_what_changed(models: Models, tmp_path: Path) -> None:
    """The last words of a text are typed anew: the answer is that of the whole text, from a run of its end."""
    ids = models._models["stories"].tokens(TEXT * 4)
    run(models, text=None, tokens=ids, want=WANT)
    machine, seen = models._models["stories"].machine, []
    hook = machine.stack.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    _, body = run(models, text=None, tokens=[*ids[:-2], 5, 6, 7], want=WANT)
    hook.remove()
    assert seen == [3]
    whole = models._models["stories"].run(tokens=[*ids[:-2], 5, 6, 7])
    answer = opened(body, tmp_path)
    for name in (name for glob in WANT for name in whole.matching(glob)):
        assert torch.allclose(answer[name], whole[name], rtol=1e-5, atol=1e-5 * float(whole[name].abs().max())), name


def test_a_small_machine_runs_on_one_thread(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    machine = models._models["stories"].machine
    hook = machine.stack.blocks[0].register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(models, text="A text")
        monkeypatch.setattr("cutaway.serve.models.SMALL", 0)
        run(models, text="Another text, and more of it. " * 5)
        assert (seen, torch.get_num_threads()) == ([1, 2], 2)
    finally:
        hook.remove()
        torch.set_num_threads(before)


def test_memory_for_records_is_found_before_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, and once, where what is given back stays with the process."""
    models = Models(lambda event: None)
    models.start()
    models.load(never, model="stories")
    run(models, text="A text")
    assert not models.rest()
    for name, value in MALLOC.items():
        monkeypatch.setenv(name, value)
    pieces = 0
    while models.rest():
        pieces += 1
    assert models._wanted <= models._kept + pieces * PIECE < models._wanted + PIECE
    run(models, text="A tale")
    assert not models.rest()
    assert not models._pieces
    run(models, text="A longer text. " * 50)
    assert models.rest()

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "zeros", refused)
    assert not models.rest()
    assert not models._pieces


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_a_quantised_model_is_seen_through_like_any_other(to: str, tmp_path: Path) -> None:
    models = Models(lambda event: None, "stories", how=How(quantize=to))
    models.start()
    models.load(never, model="stories")
    direct = cutaway.load("stories", quantize=to).run(TEXT)
    id, body = run(models, want=[*WANT, {"name": "weights.*.down.weight", "at": "7"}])
    answered = opened(body, tmp_path)
    for name in answered.tensors:
        torch.testing.assert_close(answered[name], direct[name], rtol=0, atol=0)
    for name in direct.names(views=True):  # whatever stop of the page is opened
        answer, body = models.tensor(never, record=id, name=name, at=None)
        found = np.frombuffer(body, "<f4").reshape(answer["shape"])
        np.testing.assert_allclose(found, direct[name].float().numpy(), atol=1e-6, err_msg=name)
    for cell in ("logits[-1,7]", "blocks.2.attn.q[-1,0,3]", "blocks.1.mlp.up[-1,5]", "embed[0,3]"):
        told = json.loads(models.explain(never, record=id, cell=cell)[1])
        assert told["cell"].partition("[")[0] == cell.partition("[")[0]
    _, body = models.file(never, record=id, include=["shown"], weights=["stem.tokens.weight"])
    assert opened(body, tmp_path).tokens == direct.tokens
