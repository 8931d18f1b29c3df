"""A table of yours: CSV, TSV, JSON lines or Parquet, with columns mapped to questions, answers and pictures.

Source:  --src_dir: a table, or a folder of tables that have the same columns.
Licence: yours.
Turns:   one a row, as --user, --assistant and --image say; or a column that holds whole conversations (--turns), or
         neighbouring rows that share a value (--conversation).
Splits:  by --split_column, else by the files' names (train.csv, my_val.parquet), else one record in ten is val, by a
         hash of --group, or of its pictures: what shares them stays together, and new rows move no old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

from phi3v.converters import delimited, parquet
from phi3v.converters.annotations import Row, read_json_lines
from phi3v.converters.columns import ColumnMapping, ColumnOptions, Place
from phi3v.converters.images import safe_name
from phi3v.converters.posed import Posed, render
from phi3v.converters.splits import split_of
from phi3v.schema import UserError

__all__ = ["MODULES", "SUMMARY", "Options", "plan", "render"]

SUMMARY = "A table of yours: CSV, TSV, JSONL or Parquet, columns mapped by flags"
EXAMPLE = "--src_dir qa.csv --user question --assistant answer --image picture"
MODULES = ("pyarrow",)
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
LOOKED_AT = 100  # rows of JSON lines whose keys are the columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ColumnOptions):
    """What `phi3v-data convert table` takes."""

    src_dir: Annotated[Path, "The table, or a folder of tables."]
    delimiter: Annotated[str | None, "Between a CSV's cells. [default: a comma, in .tsv a tab]"] = None
    encoding: Annotated[str | None, "Of a CSV. [default: UTF-8, or as its byte order mark says]"] = None


def plan(options: Options) -> Iterator[Posed]:
    """Yield the records, table by table in name order."""
    tables = _tables(options.src_dir)
    root = options.src_dir if options.src_dir.is_dir() else options.src_dir.parent
    if options.image_dir is not None and not options.image_dir.is_dir():
        raise UserError("no such folder", where=options.image_dir, fix="give the folder of the pictures as --image_dir")
    mappings = [(path, ColumnMapping(options, _columns(path, options))) for path in tables]  # all, before the first row
    for path, mapping in mappings:
        name = path.relative_to(root).as_posix()
        place = Place(split_of(path.name), options.image_dir or path.parent, safe_name(path.stem))
        yield from mapping.records(_rows(path, name, options), place)


def _tables(src_dir: Path) -> list[Path]:
    if src_dir.is_file():
        if src_dir.suffix.lower() not in SUFFIXES:
            raise UserError(f"no table is called *{src_dir.suffix}", where=src_dir, fix=f"give {', '.join(SUFFIXES)}")
        return [src_dir]
    tables = [path for path in sorted(src_dir.glob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not tables:
        raise UserError(f"no table here ({', '.join(SUFFIXES)})", where=src_dir, fix="point --src_dir at the table")
    return tables


def _rows(path: Path, name: str, options: Options) -> Iterator[Row]:
    match path.suffix.lower():
        case ".parquet":
            return parquet.read_parquet(path, name)
        case ".jsonl" | ".json":
            return read_json_lines(path, name)
        case _:
            return delimited.read_delimited(path, name, delimiter=options.delimiter, encoding=options.encoding)


def _columns(path: Path, options: Options) -> list[str]:
    match path.suffix.lower():
        case ".parquet":
            return parquet.columns_of(path)
        case ".jsonl" | ".json":
            return list(
                dict.fromkeys(key for row in islice(read_json_lines(path, path.name), LOOKED_AT) for key in row.data)
            )
        case _:
            return delimited.columns_of(path, delimiter=options.delimiter, encoding=options.encoding)
