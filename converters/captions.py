"""Captions of pictures: in a text file beside each, or in a table as Hugging Face's ImageFolder has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from phi3v.converters import delimited
from phi3v.converters.annotations import read_json_lines
from phi3v.converters.base import SourceError
from phi3v.converters.columns import ColumnMapping, ColumnOptions, Place
from phi3v.converters.posed import Posed
from phi3v.schema import UserError

TABLES = ("metadata.csv", "metadata.jsonl")
MAX_CAPTION = 100_000  # characters: what is larger is no caption, and the model's context is long full


def metadata_of(folder: Path) -> Path | None:
    """Return the folder's table of captions, if it has one.

    Raises:
        UserError: it has two.
    """
    found = [path for name in TABLES if (path := folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"both {' and '.join(TABLES)}", where=folder, fix="remove one of them")
    return found[0] if found else None


def captioned_records(
    table: Path, src_dir: Path, place: Place, options: ColumnOptions, caption_column: str
) -> Iterator[Posed]:
    """Yield a record a row: the columns `file_name`, `*_file_name` and `file_names` hold the pictures' paths.

    Raises:
        UserError: the table cannot be read, or lacks a column.
    """
    name = table.relative_to(src_dir).as_posix()
    if table.suffix == ".csv":
        columns = delimited.columns_of(table, delimiter=None, encoding=None)
        rows = delimited.read_delimited(table, name, delimiter=None, encoding=None)
    else:
        columns = list(dict.fromkeys(key for row in islice(read_json_lines(table, name), 100) for key in row.data))
        rows = read_json_lines(table, name)
    pictures = tuple(one for one in columns if one.endswith(("file_name", "file_names")))
    if not pictures:
        what = f"no column file_name among {', '.join(columns)}"
        raise UserError(what, where=table, fix="name the pictures' paths so, as ImageFolder has it")
    if caption_column not in columns:
        what = f"no column {caption_column!r} among {', '.join(columns)}"
        raise UserError(what, where=table, fix="give --caption_column")
    mapping = ColumnMapping(replace(options, assistant=caption_column, image=pictures), columns)
    return mapping.records(rows, place)


def captions_of(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the text files beside pictures."""
    return tuple(dict.fromkeys(text for path in paths if (text := path.with_suffix(".txt")).is_file()))


def read_caption(paths: Sequence[Path]) -> str:
    """Return the one caption that lies beside the pictures of a record.

    Raises:
        SourceError: there is none, an empty one, several that differ, or one that is no text.
    """
    found = {_read(path) for path in captions_of(paths)}
    if not found:
        where = paths[0].with_suffix(".txt")
        raise SourceError("no-caption", "no caption for this picture", where=where, fix="write one")
    if len(found) > 1:
        what = f"{len(found)} captions that differ for one record"
        raise SourceError("no-caption", what, where=paths[0], fix="keep one of them")
    return found.pop()


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_CAPTION).strip()
    except (OSError, ValueError) as error:
        what = f"cannot read this caption ({error})"
        raise SourceError("no-caption", what, where=path, fix="write it as UTF-8 text") from error
    if not text:
        raise SourceError("no-caption", "an empty caption", where=path, fix="write one")
    return text
