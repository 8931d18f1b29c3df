"""Cells of tables as texts, lists and pictures: what a number, an empty cell, a list in a text or an address means.

Nothing in a cell is ever evaluated.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import orjson

from phi3v.converters.annotations import MEND
from phi3v.converters.base import SourceError
from phi3v.converters.images import safe_name
from phi3v.converters.pictured import Picked, find_picture, image_bytes, name_of

_WHOLE = 2**53  # beyond it a float has no digits behind the point


def is_empty(cell: Any) -> bool:
    """Return whether a cell holds nothing: null, NaN, an empty or blank text, an empty list."""
    if cell is None or cell == "" or (isinstance(cell, list | tuple) and not cell):
        return True
    return (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and not cell.strip())


def text_of(cell: Any, *, where: str, column: str) -> str:  # noqa: PLR0911  # a line a type
    """Return a cell as text: empty if it holds nothing, `3` for 3.0 (whole numbers beside gaps are stored so).

    Raises:
        SourceError: bytes, which are no text.
    """
    if is_empty(cell):
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < _WHOLE:
        return str(int(cell))
    if isinstance(cell, int | float | Decimal):
        return str(cell)
    if isinstance(cell, dt.date | dt.time):
        return cell.isoformat()
    if isinstance(cell, list | dict):
        return orjson.dumps(cell, default=str).decode()
    raise SourceError("wrong-field", f"{column!r} holds {type(cell).__name__}, no text", where=where, fix=MEND)


def list_of(cell: Any, *, separator: str | None, where: str, column: str) -> list[Any]:
    """Return a cell as a list: one that is a list, a text that is a JSON list or parts between `separator`, or itself.

    Raises:
        SourceError: a text that begins like a list and is none.
    """
    if is_empty(cell):
        return []
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = orjson.loads(cell)
        except orjson.JSONDecodeError as error:
            what = f"{column!r} begins like a JSON list and is none: {cell!r:.60}"
            fix = 'write ["a", "b"], with double quotes'
            raise SourceError("wrong-field", what, where=where, fix=fix) from error
    elif isinstance(cell, str) and separator:
        cell = [part.strip() for part in cell.split(separator)]
    return [one for one in (cell if isinstance(cell, list) else [cell]) if not is_empty(one)]


def picked(cell: Any, *, number: int, folder: Path, where: str, stem: str, allow_download: bool) -> Picked:
    """Return the picture that a cell holds or names.

    Args:
        cell: bytes, a Hugging Face `Image` struct, a path below `folder`, or an address.
        number: of the picture in its row, from 0.
        folder: below which paths lie.
        where: the row.
        stem: the row's, which names a picture that has no name.
        allow_download: whether addresses are fetched.

    Raises:
        SourceError: it does not hold one, the path leads out of `folder`, or an address is not allowed.
    """
    if (data := image_bytes(cell)) is not None:
        return Picked(f"{stem}-{number}", data, where)
    name = cell.get("path") if isinstance(cell, dict) else cell
    if not isinstance(name, str):
        what = f"{cell!r:.60} is no picture: neither bytes nor a path"
        raise SourceError("no-image", what, where=where, fix="name another --image column")
    if "://" in name or name.startswith("data:"):
        return _addressed(name, where, allow_download=allow_download)
    if Path(name).is_absolute():
        if not (path := Path(name)).resolve().is_relative_to(folder.resolve()):
            what = f"picture {name!r:.80} leads out of the image folder {folder}"
            raise SourceError("unsafe-path", what, where=where, fix="give the folder above it as --image_dir")
        name = path.resolve().relative_to(folder.resolve()).as_posix()
    return Picked(name_of(PurePosixPath(name)), find_picture(name, [folder], where=where))


def _addressed(address: str, where: str, *, allow_download: bool) -> Picked:
    if not address.startswith(("http://", "https://")):
        what = f"address {address!r:.60} is not http"
        raise SourceError("address", what, where=where, fix="fetch the picture, and name the file")
    if not allow_download:
        fix = "give --allow_download, or fetch the pictures, and name the files"
        raise SourceError("address", f"{address!r:.80} is an address, and nothing is fetched", where=where, fix=fix)
    last = safe_name(PurePosixPath(urlsplit(address).path).stem)[:60]
    return Picked(f"{last}-{hashlib.sha256(address.encode()).hexdigest()[:12]}", address, where)


def conversation_of(cell: Any, *, where: str, column: str) -> Iterator[tuple[str, str]]:
    """Yield role and text of a cell that holds turns: role is `user`, `assistant` or `system`.

    A list of {user, assistant}, {from, value} or {role, content}, or such a list as JSON.

    Raises:
        SourceError: it holds something else.
    """
    roles = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
    for turn in list_of(cell, separator=None, where=where, column=column):
        if isinstance(turn, dict) and "user" in turn:
            yield from ((role, text) for role in ("user", "assistant") if isinstance(text := turn.get(role), str))
            continue
        known = isinstance(turn, dict)
        role = roles.get(str(turn.get("from", turn.get("role")))) if known else None
        text = turn.get("value", turn.get("content")) if known else None
        if role is None or not isinstance(text, str):
            what = f"{column!r} holds a turn that is not known: {turn!r:.80}"
            fix = "give a list of {user, assistant}, {from, value} or {role, content}"
            raise SourceError("wrong-field", what, where=where, fix=fix)
        yield role, text
