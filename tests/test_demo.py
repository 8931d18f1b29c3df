"""The demo as `make demo` runs it, and that what it learned is in the pixels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
CHANCE = 0.25  # four classes, equally frequent


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the demo in a copy of what it needs, under a path with a space in it."""
    folder = tmp_path_factory.mktemp("a demo")
    shutil.copytree(ROOT / "fixtures", folder / "fixtures")
    done = subprocess.run([sys.executable, folder / "fixtures/demo.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "accuracy on 24 unseen clips" in done.stdout
    return folder / "demo"


pytestmark = pytest.mark.slow


def test_the_tiny_model_learns_to_name_unseen_clips(demo: Path) -> None:
    metrics = json.loads((demo / "metrics.json").read_text())

    assert set(metrics) == {"accuracy_before", "accuracy_after", "seconds"}
    assert metrics["accuracy_before"] <= CHANCE + 0.1
    assert metrics["accuracy_after"] >= 0.9
    assert metrics["seconds"] < 360


def test_no_validation_clip_was_trained_on(demo: Path) -> None:
    stems = {
        split: {
            Path(line).stem
            for line in (demo / "data" / f"ucf101_{split}.jsonl").read_text().split('"')
            if ".0.jpg" in line
        }
        for split in ("train", "val")
    }

    assert len(stems["train"]) == 80
    assert len(stems["val"]) == 24
    assert not stems["train"] & stems["val"]


def test_without_pixels_it_falls_to_chance(demo: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copy(demo / "data" / "ucf101_val.jsonl", tmp_path)
    for path in (demo / "data" / "images" / "val").rglob("*.jpg"):
        target = tmp_path / "images" / path.relative_to(demo / "data" / "images")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            Image.new("RGB", picture.size, (128, 128, 128)).save(target)

    done = run("phi3v-model", "evaluate", "--model", demo / "model", "--data", tmp_path / "ucf101_val.jsonl")

    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split()[1])
    assert accuracy <= CHANCE + 0.1


def test_the_saved_model_scores_as_it_did_after_training(demo: Path, run: Callable[..., Any]) -> None:
    done = run("phi3v-model", "evaluate", "--model", demo / "model", "--data", demo / "data" / "ucf101_val.jsonl")

    expected = json.loads((demo / "metrics.json").read_text())["accuracy_after"]
    assert done.stdout.startswith(f"accuracy: {expected:.4f} on 24 samples (95 %: ")


def test_the_plot_is_a_picture(demo: Path) -> None:
    with Image.open(demo / "demo.png") as picture:
        assert picture.width > 600
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 1000
