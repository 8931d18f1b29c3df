"""What tests of scores share: small data with answers of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from phi3v.schema import Conversation, Turn

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


@pytest.fixture
def colours(tmp_path: Path) -> Callable[..., Path]:
    """Add a split of pictures of many widths, whose colour is to be named, to a converted folder.

    `images` is how many pictures a record has by its number; `unlabelled` are the numbers without an answer.
    """

    def write(
        split: str,
        count: int,
        *,
        images: Callable[[int], int] = lambda _: 1,
        unlabelled: tuple[int, ...] = (),
        source: str = "colours",
        **turn: Any,
    ) -> Path:
        folder = tmp_path / "data"
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        lines = []
        for number in range(count):
            name, colour = list(COLOURS.items())[number % 2]
            paths = tuple(f"{split}/{number}.{index}.png" for index in range(images(number)))
            for path in paths:
                Image.new("RGB", (40 + 17 * (number % 5), 40), colour).save(folder / "images" / path)
            answer = None if number in unlabelled else name
            own = Turn(user="Which colour?" + " Say it." * (number % 3), assistant=answer, images=paths, **turn)
            lines.append(Conversation(id=f"{split}-{number}", source=source, turns=(own,)).to_line())
        (folder / f"{source}_{split}.jsonl").write_text("".join(lines))
        return folder

    return write
