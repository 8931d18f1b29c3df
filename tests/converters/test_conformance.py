"""The kit that plug-ins get, on our own converters and on the example; and that it catches what it is there for."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phi3v.converters import ucf101
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
