"""The report of a real, tiny run."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from phi3v.schema import Conversation, Turn
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.curves import ScoreAt, draw_curves
from phi3v.trainer.data import Records
from phi3v.trainer.report import write_report
from phi3v.trainer.run import train

Colours = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run with scores during it, on records of which one has no answer."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "data/images").mkdir(parents=True)
    for split, count in (("train", 8), ("test", 7)):
        lines = []
        for number in range(count):
            name = f"{split}-{number}.png"
            Image.new("RGB", (300 + number, 200), ((220, 30, 30), (30, 30, 220))[number % 2]).save(
                folder / "data/images" / name
            )
            answer = ("red", "blue")[number % 2] if name != "test-6.png" else None
            turn = Turn(user="Which <b>colour</b> | hue?", assistant=answer, images=(name,))
            lines.append(Conversation(id=f"{split}-{number}", source="colours", turns=(turn,)).to_line())
        (folder / f"data/colours_{split}.jsonl").write_text("".join(lines))
    config = TrainConfig(
        data_dir=folder / "data",
        output_dir=folder / "run",
        model_name_or_path="tiny",
        preset="docvqa-lora-bf16",
        num_crops=1,
        batch_size=4,
        max_steps=4,
        eval_steps=2,
        logging_steps=1,
        num_workers=0,
        max_new_tokens=3,
        tqdm=False,
    )
    list(train(config))
    return config


def test_the_page_holds_scores_with_intervals_and_their_number(run: TrainConfig) -> None:
    text = (run.output_dir / "report.md").read_text()
    scores = json.loads((run.output_dir / "eval_after.json").read_text())["scores"][0]

    interval = f"{scores['value']:.4f} ({scores['low']:.4f} to {scores['high']:.4f}) | 6 |"
    assert interval in text
    assert "1 records without an answer were predicted and are in no score." in text
    assert "| training samples | 8 |" in text
    assert "| samples to score on | 7 |" in text
    assert "| --eval_steps | 2 |" in text


def test_every_wrong_answer_is_shown_with_its_picture(run: TrainConfig) -> None:
    lines = (run.output_dir / "predictions_after.jsonl").read_text().splitlines()
    wrong = [own["id"] for own in map(json.loads, lines) if own["score"] == 0]
    text = (run.output_dir / "report.md").read_text()
    shown = re.findall(r"\| (test-\d) \|", text)

    assert wrong
    assert sorted(shown) == sorted(wrong)
    assert "Which &lt;b&gt;colour&lt;/b&gt; \\| hue?" in text
    for row, name in enumerate(shown, 1):
        with Image.open(run.output_dir / f"report_files/worst-{row}.1.jpg") as picture:
            assert max(picture.size) == 240
            red, _, blue = picture.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
        assert (red > blue) == (int(name[-1]) % 2 == 0)


def test_the_published_score_stands_beside_with_what_differs(run: TrainConfig) -> None:
    text = (run.output_dir / "report.md").read_text()

    assert "| docvqa-lora-bf16 | anls_recipe | 82.46 | not measured |" in text
    assert "The two are not comparable:" in text
    assert "data: scored on colours, the recipe on docvqa" in text
    assert "--learning_rate 4e-05, the recipe 0.0002" in text


def test_html_has_the_same_and_its_curves_are_a_picture(run: TrainConfig) -> None:
    page = (run.output_dir / "report.html").read_text()
    (curves,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    thumbnails = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)

    assert ET.fromstring(b64decode(curves)).tag.endswith("svg")  # noqa: S314  # we have made it
    assert thumbnails
    assert all(Image.open(BytesIO(b64decode(own))).format == "JPEG" for own in thumbnails)
    assert "http" not in page.replace("http-equiv", "")


def test_the_same_run_has_the_same_report(run: TrainConfig) -> None:
    records = Records([run.data_dir / "colours_test.jsonl"])
    before = (run.output_dir / "report.html").read_bytes()
    (run.output_dir / "eval_mine.json").write_text("{}")  # a user's own

    assert write_report(run, records) == run.output_dir / "report.html"

    assert (run.output_dir / "report.html").read_bytes() == before


def test_a_run_without_scores_has_a_report(colours: Colours) -> None:
    data = colours("train", 4)
    config = TrainConfig(
        data_dir=data,
        output_dir=data.parent / "run",
        model_name_or_path="tiny",
        num_crops=1,
        max_steps=1,
        num_workers=0,
    )

    list(train(config))

    assert "Nothing was scored." in (config.output_dir / "report.md").read_text()


def test_curves_of_one_point_or_none_are_drawn() -> None:
    one = draw_curves([{"step": 1, "loss": 2.0}], [ScoreAt(0, 0.5, 0.4, 0.6)], "accuracy")

    assert one == draw_curves([{"step": 1, "loss": 2.0}], [ScoreAt(0, 0.5, 0.4, 0.6)], "accuracy")
    assert one != draw_curves([], [], "")
