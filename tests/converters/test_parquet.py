"""Parquet row by row, and what a conversion says of the recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from phi3v.converters.parquet import columns_of, parquet_files, read_parquet
from phi3v.converters.pictured import image_bytes
from phi3v.converters.recipe import comparison, fetched_parts
from phi3v.schema import UserError

ROWS = [{"number": n, "nested": {"list": [n, n + 1]}, "text": "ü" * n} for n in range(40)]


def test_rows_come_as_pyarrow_reads_them_whole(tmp_path: Path, write_parquet: Callable[..., Path]) -> None:
    path = write_parquet(tmp_path / "t.parquet", ROWS)

    rows = list(read_parquet(path, "t"))

    assert [row.data for row in rows] == pq.read_table(path).to_pylist()
    assert [row.place for row in rows] == [f"t:row {n}" for n in range(40)]
    assert columns_of(path) == ["number", "nested", "text"]
    assert pq.ParquetFile(path).num_row_groups == 14, "more than one, and none is a multiple of what is read at a time"


def test_columns_that_are_not_asked_for_are_not_read(tmp_path: Path, write_parquet: Callable[..., Path]) -> None:
    path = write_parquet(tmp_path / "t.parquet", ROWS)

    assert next(read_parquet(path, "t", ("text", "absent"))).data == {"text": ""}


def test_files_below_a_folder_or_one_file(tmp_path: Path, write_parquet: Callable[..., Path]) -> None:
    one = write_parquet(tmp_path / "b/train-1.parquet", ROWS)
    other = write_parquet(tmp_path / "a/train-0.parquet", ROWS)
    (tmp_path / "a/readme.md").write_text("x")

    assert parquet_files(tmp_path) == [other, one]
    assert parquet_files(one) == [one]
    assert parquet_files(tmp_path / "a/readme.md") == []


@pytest.mark.parametrize("spoil", [lambda data: data[:0], lambda data: data[:100], lambda data: b"x" * len(data)])
def test_what_is_no_parquet_is_told(
    tmp_path: Path, write_parquet: Callable[..., Path], spoil: Callable[[bytes], bytes]
) -> None:
    path = write_parquet(tmp_path / "t.parquet", ROWS)
    path.write_bytes(spoil(path.read_bytes()))

    for read in (columns_of, lambda one: list(read_parquet(one, "t"))):
        with pytest.raises(UserError, match="cannot read this Parquet file"):
            read(path)


def test_damage_in_a_page_is_told_where_it_is_met(tmp_path: Path, write_parquet: Callable[..., Path]) -> None:
    path = write_parquet(tmp_path / "t.parquet", ROWS)
    data = bytearray(path.read_bytes())
    middle = pq.ParquetFile(path).metadata.row_group(7).column(0).data_page_offset
    data[middle : middle + 12] = b"\xff" * 12
    path.write_bytes(bytes(data))

    with pytest.raises(UserError, match="cannot read this Parquet file"):
        list(read_parquet(path, "t"))


@pytest.mark.parametrize(
    ("cell", "data"),
    [
        ({"bytes": b"x", "path": "p"}, b"x"),
        (b"x", b"x"),
        ({"bytes": None, "path": "p"}, None),
        ("p", None),
        (None, None),
    ],
)
def test_the_bytes_of_a_picture(cell: Any, data: bytes | None) -> None:
    assert image_bytes(cell) == data


# ---------------------------------------------------------------------------------------------------------- recipe


def test_a_conversion_equals_the_recipes_data_or_says_how_it_differs(tmp_path: Path) -> None:
    content = {"records": {"train": 8000, "val": 500}, "rejected": {"count": 0}}
    counts = {"train": 8000, "val": 500}

    own = comparison(tmp_path, content, {"--prompt was given": False}, counts)
    (tmp_path / "fetched.json").write_text('[{"repo": "a/b", "rows": null}]')
    same = comparison(tmp_path, content, {"--prompt was given": False}, counts)
    less = comparison(tmp_path, {**content, "rejected": {"count": 3}}, {"--prompt was given": True}, {"train": 1})

    assert own == {
        "fetched": [],
        "recipe": {"equal": False, "differences": ["the data were given as --src_dir, not fetched"]},
    }
    assert same["recipe"] == {"equal": True, "differences": []}
    assert same["fetched"] == fetched_parts(tmp_path) == [{"repo": "a/b", "rows": None}]
    assert less["recipe"]["differences"] == [
        "--prompt was given",
        "3 items were rejected",
        "records {'train': 8000, 'val': 500}, not {'train': 1}",
    ]
