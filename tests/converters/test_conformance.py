"""The kit that plug-ins get, on our own converters and on the example; and that it catches what it is there for."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from phi3v.converters import docvqa, hateful_memes, hub, nlvr2, table, ucf101
from phi3v.converters import folder as folder_converter
from phi3v.converters.base import Draft, Item
from phi3v.converters.registry import CONVERTERS
from phi3v.converters.testing import ConverterTests
from phi3v.schema import Turn

ROOT = Path(__file__).parents[2]


class TestUcf101(ConverterTests):
    name = "ucf101"

    def make_source(self, folder: Path) -> Any:
        clips = sorted((ROOT / "fixtures/ucf101/train").glob("*/*_g01_*.avi"))
        for clip in clips:
            (folder / "train" / clip.parent.name).mkdir(parents=True)
            shutil.copy(clip, folder / "train" / clip.parent.name)
        return ucf101.Options(src_dir=folder, num_frames=3)


def draw(path: Path, number: int) -> None:
    """Write a picture of noise, which differs from every other's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


class TestDocvqa(ConverterTests):
    name = "docvqa"

    def make_source(self, folder: Path) -> Any:
        items = []
        for number in range(5):
            draw(folder / "documents" / f"abcd000{number // 2}_1.png", number // 2)
            items.append(
                {"questionId": number, "question": "how?", "image": f"documents/abcd000{number // 2}_1.png"}
                | {"answers": ["so", "thus"], "ucsf_document_id": f"abcd000{number // 2}", "docId": number // 2}
            )
        (folder / "train_v1.0.json").write_text(json.dumps({"dataset_split": "train", "data": items}))
        return docvqa.Options(src_dir=folder)


class TestDocvqaPages(TestDocvqa):
    def make_source(self, folder: Path) -> Any:
        options = super().make_source(folder)
        document = json.loads((folder / "train_v1.0.json").read_text())
        more = [dict(item, questionId=10 + item["questionId"]) for item in document["data"]]
        for number, item in enumerate(more):
            item["image"] = f"documents/wxyz000{number // 2}_1.png"
            draw(folder / item["image"], 50 + number // 2)
        (folder / "train_v1.0.json").write_text(json.dumps({**document, "data": document["data"] + more}))
        return dataclasses.replace(options, turns="page")


class TestHatefulMemes(ConverterTests):
    name = "hateful_memes"

    def make_source(self, folder: Path) -> Any:
        for number in range(5):
            draw(folder / "img" / f"0000{number}.png", number)
            row = {"id": number, "img": f"img/0000{number}.png", "label": number % 2, "text": "words"}
            with (folder / "train.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        return hateful_memes.Options(src_dir=folder)


class TestNlvr2(ConverterTests):
    name = "nlvr2"

    def make_source(self, folder: Path) -> Any:
        (folder / "data").mkdir()
        for number in range(4):
            for side in (0, 1):
                draw(folder / "images/dev" / f"dev-{number}-0-img{side}.png", 2 * number + side)
            row = {"identifier": f"dev-{number}-0-0", "sentence": "There is noise.", "label": "True"}
            with (folder / "data/dev.json").open("a") as file:
                file.write(json.dumps(row) + "\n")
        return nlvr2.Options(src_dir=folder)


class TestNlvr2OfTheCauldron(ConverterTests):
    """Pictures that travel inside items."""

    name = "nlvr2"

    def make_source(self, folder: Path) -> Any:
        rows = []
        for number in range(5):
            draw(folder / "one.png", number)
            picture = {"bytes": (folder / "one.png").read_bytes(), "path": None}
            rows.append({"images": [picture] * 2, "texts": [{"user": "True?", "assistant": "Yes.", "source": "NLVR2"}]})
        (folder / "one.png").unlink()
        pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
        return nlvr2.Options(src_dir=folder)


class TestFolder(ConverterTests):
    name = "folder"

    def make_source(self, folder: Path) -> Any:
        for number in range(5):
            draw(folder / "ab"[number % 2] / f"{number}.png", number)
        return folder_converter.Options(src_dir=folder)


class TestFolderOfCaptions(ConverterTests):
    name = "folder"

    def make_source(self, folder: Path) -> Any:
        for number in range(5):
            draw(folder / f"{number}.png", number)
            (folder / f"{number}.txt").write_text(f"noise {number}")
        return folder_converter.Options(src_dir=folder)


class TestTable(ConverterTests):
    name = "table"

    def make_source(self, folder: Path) -> Any:
        lines = ["question,answer,image"]
        for number in range(5):
            draw(folder / f"{number}.png", number)
            lines.append(f"how?,so {number},{number}.png")
        (folder / "train.csv").write_text("\n".join(lines))
        return table.Options(src_dir=folder, user=("question",), assistant="answer", image=("image",))


class TestHub(ConverterTests):
    name = "hub"

    def make_source(self, folder: Path) -> Any:
        for number in range(5):
            draw(folder / "train" / "ab"[number % 2] / f"{number}.png", number)
        return hub.Options(src_dir=folder, user=("Which class?",), assistant="label", image=("image",))


class TestCaptions(ConverterTests):
    """The example plug-in."""

    name = "captions"

    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(ROOT / "fixtures" / "plugin")
        monkeypatch.setitem(CONVERTERS, "captions", "phi3v_captions")

    def make_source(self, folder: Path) -> Any:
        import phi3v_captions

        for number, form in enumerate(("jpg", "png", "webp", "gif", "bmp", "png")):
            noise = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{number}.{form}")
            (folder / f"{number}.txt").write_text(f"picture {number}")
        return phi3v_captions.Options(src_dir=folder)


# ------------------------------------------------------------------------------------ converters that must not pass


def careless(monkeypatch: pytest.MonkeyPatch, fault: str) -> ConverterTests:
    """Return the tests of a converter with one fault."""
    module = ModuleType("careless_converter", "Source: x\nLicence: x\nTurns: x\nSplits: x")
    calls: list[int] = []

    def plan(options: Any) -> list[Item]:
        paths = sorted(options.src_dir.iterdir(), reverse=fault == "order" and len(calls) % 2 == 1)
        calls.append(1)
        return [Item(split="train", source=path.name, files=(path,)) for path in paths]

    def render(item: Item) -> Draft:
        calls.append(1)
        text = item.files[0].read_text()
        if fault == "crash on bad input" and not text.startswith("good"):
            raise KeyError(text)
        answer = f"{text or 'nothing'}{len(calls) if fault == 'state' else ''}"
        return Draft(turns=(Turn(user="Q", assistant=answer),))

    module.SUMMARY, module.MODULES, module.Options = "x", (), ucf101.Options  # type: ignore[attr-defined]
    module.plan, module.render = plan, render  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "careless_converter", module)
    monkeypatch.setitem(CONVERTERS, "careless", "careless_converter")

    class Tests(ConverterTests):
        name = "careless"

        def make_source(self, folder: Path) -> Any:
            for number in range(5):
                (folder / f"{number}.txt").write_text(f"good {number}")
            return ucf101.Options(src_dir=folder)

    return Tests()


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("order", "test_the_plan_is_the_same_again_and_its_items_travel"),
        ("state", "test_a_stopped_run_goes_on"),
        ("crash on bad input", "test_hostile_files_cost_their_own_items"),
    ],
)
def test_the_kit_catches_a_careless_converter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, test: str
) -> None:
    (tmp_path / "good").mkdir()
    getattr(careless(monkeypatch, "none"), test)(tmp_path / "good")
    (tmp_path / "bad").mkdir()

    with pytest.raises(AssertionError):
        getattr(careless(monkeypatch, fault), test)(tmp_path / "bad")
