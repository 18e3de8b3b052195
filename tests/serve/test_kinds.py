"""The worker's engine with encoders and models that see: what the page asks of them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cutaway
from cutaway.errors import Misuse
from cutaway.serve.models import Models, asked_for
from tests.serve.test_models import never
from tests.tasks.encoders import BERT, write
from tests.tasks.test_see import VIT, Make, photo, vision  # noqa: F401  (fixtures)

TEXT = "The [MASK] sat on the [MASK]."
CLASSES = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "joy", "1": "anger"}}


def started(folder: Path) -> tuple[Models, str, dict]:
    events: list[dict] = []
    models = Models(events.append, str(folder))
    models.start()
    entry = events[0]["models"][0]
    models.load(never, model=entry["id"])
    return models, entry["id"], entry


def run(models: Models, model: str, folder: Path, want: list[str], **what: object) -> tuple[str, cutaway.Record]:
    wants = [{"name": name, "at": None} for name in want]
    answer, body = models.run(never, model=model, given=what, want=wants)
    (folder / "run.cutaway").write_bytes(body)
    return answer["record"], cutaway.open(folder / "run.cutaway")


def test_a_model_that_fills_masks(tmp_path: Path) -> None:
    folder = write(tmp_path / "masked", BERT)
    models, id, entry = started(folder)
    assert (entry["task"], entry["vocabulary"], entry["picture"]) == ("fill", 120, None)
    record, body = run(models, id, tmp_path, ["logits", "river"], text=TEXT)
    model = cutaway.load(folder)
    blanks = model.fill(TEXT)
    assert body.settings["masks"] == [blank.position for blank in blanks]
    for blank in blanks:
        assert np.abs(body["logits"][blank.position].numpy() - blank.logits).max() < 1e-5
    filled = [*body.tokens]
    filled[blanks[0].position] = model.tokens("cat")[1]
    _, again = run(models, id, tmp_path, ["logits"], tokens=filled)
    assert again.settings["masks"] == [blanks[1].position]
    assert again.text == "the cat sat on the [MASK]."
    found = json.loads(models.explain(never, record=record, cell="head.hidden[2,3]")[1])
    assert abs(found["difference"]) < 1e-5


def test_a_model_that_tells_classes(tmp_path: Path) -> None:
    models, id, entry = started(write(tmp_path / "moods", BERT | CLASSES))
    assert (entry["task"], entry["vocabulary"]) == ("classify", 2)
    assert json.loads(models.vocabulary(never, model=id)[1]) == ["joy", "anger"]
    _, body = run(models, id, tmp_path, ["logits"], text="the cat")
    assert body["logits"].shape == (2,)
    assert body.settings["exclusive"] is True


def test_a_model_that_sees(tmp_path: Path, vision: Make, photo: Path) -> None:  # noqa: F811
    folder = vision(VIT)
    models, id, entry = started(folder)
    assert (entry["task"], entry["picture"]) == ("see", {"side": 24, "channels": 3})
    assert json.loads(models.vocabulary(never, model=id)[1]) == ["cat", "dog", "nothing"]
    record, body = run(models, id, tmp_path, ["logits", "image"], image=base64.b64encode(photo.read_bytes()).decode())
    best = ["cat", "dog", "nothing"][int(body["logits"].argmax())]
    assert cutaway.load(folder).see(photo).labels[0].name == best
    assert body["image"].shape == (3, 24, 24)
    found = json.loads(models.explain(never, record=record, cell="image[1,2,3]")[1])
    assert abs(found["difference"]) < 1e-6
    assert models.tensor(never, record=record, name="pos", at="3")[0]["shape"] == [entry["width"]]
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    for broken in (b"no picture", photo.read_bytes()[:100], bomb.getvalue()):
        with pytest.raises(Exception, match=r"picture|image|pixels") as caught:
            run(models, id, tmp_path, ["logits"], image=base64.b64encode(broken).decode())
        assert type(caught.value).__name__ in ("Refused", "Misuse")
    with pytest.raises(Misuse):
        run(models, id, tmp_path, ["logits"], text="a text")


def test_a_model_without_a_head_is_not_shown(tmp_path: Path) -> None:
    folder = write(tmp_path / "vectors", BERT | {"architectures": ["BertModel"]})
    with pytest.raises(Misuse, match="the page does not show such models yet"):
        asked_for(str(folder))
