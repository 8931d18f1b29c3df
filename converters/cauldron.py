"""The form of HuggingFaceM4/the_cauldron: Parquet rows of `images` and `texts`, each text a user's and an assistant's.

The texts hold their prompts. The recipe scores the first 500 rows and trains on the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from phi3v.converters.annotations import Row
from phi3v.converters.base import SourceError
from phi3v.converters.parquet import columns_of, parquet_files, read_parquet
from phi3v.converters.pictured import Picked, image_bytes
from phi3v.schema import UserError

EVALUATED = 500  # rows from the first on that the recipe scores


class Text(NamedTuple):
    """One question and its answer; the question holds its prompt."""

    user: str
    assistant: str


class Example(NamedTuple):
    """A row: its place, number in the data set, pictures and texts."""

    row: Row
    number: int
    pictures: tuple[Picked, ...]
    texts: tuple[Text, ...]


def cauldron_files(src_dir: Path) -> list[Path]:
    """Return the Parquet files of this form; none where there are none.

    Raises:
        UserError: Parquet files of another form.
    """
    files = parquet_files(src_dir)
    if files and not {"images", "texts"} <= set(columns := columns_of(files[0])):
        what = f"not the_cauldron's 'images' and 'texts', but the columns {', '.join(columns)}"
        raise UserError(what, where=files[0], fix="phi3v-data convert table --help converts any columns")
    return files


def read_cauldron(files: list[Path], root: Path, *, pictures: int) -> Iterator[Example]:
    """Yield the rows of all files, numbered through.

    Args:
        files: as `cauldron_files` gives them.
        root: below which rows are named.
        pictures: how many a row has; another number is its fault.
    """
    number = 0
    for path in files:
        for row in read_parquet(path, path.relative_to(root).as_posix(), ("images", "texts")):
            yield _example(row, number, pictures)
            number += 1


def recipe_split(number: int) -> str:
    """Return where the recipe has a row."""
    return "val" if number < EVALUATED else "train"


def _example(row: Row, number: int, count: int) -> Example:
    try:
        return Example(Row(row.place, {}), number, tuple(_pictures(row, number, count)), tuple(_texts(row)))
    except SourceError as error:
        return Example(replace(row.with_fault(error), data={}), number, (), ())


def _pictures(row: Row, number: int, count: int) -> Iterator[Picked]:
    cells = row.data.get("images")
    if not isinstance(cells, list) or len(cells) != count:
        found = f"{len(cells)} pictures" if isinstance(cells, list) else "none"
        raise SourceError("wrong-field", f"'images' is a list of {count}, not {found}", where=row.place)
    for place, cell in enumerate(cells):
        data = image_bytes(cell)
        if data is None:
            raise SourceError("no-image", f"image {place} of this row holds no bytes", where=row.place)
        name = f"{number:06d}" if len(cells) == 1 else f"{number:06d}-{place}"
        yield Picked(name, data, f"{row.place}.images[{place}]")


def _texts(row: Row) -> Iterator[Text]:
    texts = row.data.get("texts")
    if not isinstance(texts, list) or not texts:
        raise row.wrong("texts", "a list of questions and answers")
    for number, text in enumerate(texts):
        inner = Row(f"{row.place}.texts[{number}]", text if isinstance(text, dict) else {})
        yield Text(inner.text("user"), inner.text("assistant"))
