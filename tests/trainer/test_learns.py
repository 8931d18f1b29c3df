"""Each strategy learns each kind of task: it answers for pictures that it never saw, far above guessing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from phi3v.schema import Conversation, Turn
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.events import Scored
from phi3v.trainer.run import train

SEEN, UNSEEN = 64, 24
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "yellow": (235, 210, 40)}
SIZE = 96
Drawn = tuple[list[Image.Image], list[tuple[str, str]]]  # the pictures; question and answer of each turn


def clip(answer: int, chance: random.Random) -> Drawn:
    """Two frames of a square that moves; which action it is, its colour says."""
    names = list(COLOURS)
    x, y = chance.randrange(8, 40), chance.randrange(8, 56)
    frames = []
    for step in range(2):
        frame = Image.new("RGB", (SIZE, SIZE), "black")
        left = x + 12 * step
        ImageDraw.Draw(frame).rectangle((left, y, left + 32, y + 32), fill=COLOURS[names[answer]])
        frames.append(frame)
    return frames, [("Which action?", names[answer])]


def page(answer: int, chance: random.Random) -> Drawn:
    """A page of lines with a stamp somewhere on it."""
    names = list(COLOURS)
    picture = Image.new("RGB", (SIZE, 128), "white")
    draw = ImageDraw.Draw(picture)
    for line in range(8, 124, 6):
        draw.line((8, line, chance.randrange(40, SIZE - 8), line), fill=(90, 90, 90))
    x, y = chance.randrange(4, SIZE - 44), chance.randrange(4, 80)
    draw.rectangle((x, y, x + 40, y + 40), fill=COLOURS[names[answer]])
    return [picture], [("What colour is the stamp?", names[answer])]


def meme(answer: int, chance: random.Random) -> Drawn:
    """A picture and a text: hateful if the picture is red, whatever the text says."""
    picture = Image.new("RGB", (SIZE, SIZE), COLOURS["red" if answer else "blue"])
    draw = ImageDraw.Draw(picture)
    draw.text((chance.randrange(4, 40), chance.randrange(4, 80)), "when you see it", fill="white")
    return [picture], [("Is it hateful?", "Yes" if answer else "No")]


def pair(answer: int, chance: random.Random) -> Drawn:
    """Two pictures and a sentence about both: neither alone tells that it is true."""
    colours = ["red", "red"] if answer else chance.choice([["red", "blue"], ["blue", "red"], ["blue", "blue"]])
    pictures = [Image.new("RGB", (SIZE, SIZE), COLOURS[colour]) for colour in colours]
    return pictures, [("Both pictures are red.", "True" if answer else "False")]


def talk(answer: int, chance: random.Random) -> Drawn:
    """A picture with two fields, asked for one after the other."""
    names = list(COLOURS)
    other = chance.randrange(4)
    picture = Image.new("RGB", (SIZE, SIZE), COLOURS[names[other]])
    ImageDraw.Draw(picture).rectangle((0, SIZE // 2, SIZE, SIZE), fill=COLOURS[names[answer]])
    return [picture], [("What colour is above?", names[other]), ("And below?", names[answer])]


TASKS: dict[str, tuple[Callable[[int, random.Random], Drawn], int]] = {
    "clips": (clip, 4),
    "pages": (page, 4),
    "memes": (meme, 2),
    "pairs": (pair, 2),
    "turns": (talk, 4),
}


def write(task: str, folder: Path) -> float:
    """Write a task as a converted folder; return the score of guessing: each answer is equally frequent."""
    draw, answers = TASKS[task]
    chance = random.Random(task)
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", SEEN), ("val", UNSEEN)):
        records = [_record(f"{split}-{n}", *draw(n % answers, chance), folder / "images") for n in range(count)]
        (folder / f"{task}_{split}.jsonl").write_text("".join(record.to_line() for record in records))
    return 1 / answers


def _record(name: str, pictures: list[Image.Image], said: list[tuple[str, str]], images: Path) -> Conversation:
    files = [f"{name}.{index}.png" for index in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        picture.save(images / file)
    first, *others = [Turn(user=question, assistant=answer) for question, answer in said]
    return Conversation(id=name, source="drawn", turns=(replace(first, images=tuple(files)), *others))


STRATEGIES: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 1e-3, "num_train_epochs": 8},
    "frozen": {"learning_rate": 1e-3, "num_train_epochs": 8, "freeze_vision_model": True},
    "lora": {"learning_rate": 5e-3, "num_train_epochs": 16, "use_lora": True},
    "qlora": {"learning_rate": 5e-3, "num_train_epochs": 16, "use_qlora": True},
}
COVERING = {("clips", "full"), ("pages", "lora"), ("memes", "qlora"), ("pairs", "frozen"), ("turns", "full")}
BY_LUCK = 1e-4  # how likely so many right answers may be for who guesses


def luck(right: int, of: int, guess: float) -> float:
    """Return how likely it is to guess so many or more."""
    return sum(comb(of, hits) * guess**hits * (1 - guess) ** (of - hits) for hits in range(right, of + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "strategy"),
    [
        pytest.param(task, strategy, marks=[] if (task, strategy) in COVERING else pytest.mark.product)
        for task in TASKS
        for strategy in STRATEGIES
    ],
)
def test_it_learns(task: str, strategy: str, tmp_path: Path) -> None:
    guess = write(task, tmp_path / "data")
    config = TrainConfig(
        data_dir=tmp_path / "data",
        output_dir=tmp_path / "run",
        model_name_or_path="tiny",
        num_crops=1,
        batch_size=8,
        batch_size_per_gpu=8,
        gradient_checkpointing=False,
        max_new_tokens=8,
        num_workers=0,
        save_steps=0,
        tqdm=False,
        **STRATEGIES[strategy],
    )

    scores = {event.when: event.scores[0].value for event in train(config) if isinstance(event, Scored)}

    assert luck(round(scores["after"] * UNSEEN), UNSEEN, guess) < BY_LUCK, scores
    assert scores["before"] <= guess


def test_what_luck_is() -> None:
    assert luck(0, 24, 0.25) == pytest.approx(1)
    assert luck(24, 24, 0.5) == pytest.approx(2**-24)
    assert luck(22, 24, 0.5) < BY_LUCK < luck(20, 24, 0.5)
