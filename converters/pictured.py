"""Pictures that a record names, wherever they come from: a file, the bytes of a table's cell."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from phi3v.converters.base import SourceError
from phi3v.converters.download import fetch
from phi3v.converters.images import MAX_BYTES, Picture, read_picture, safe_name
from phi3v.schema import UserError


@dataclass(frozen=True, slots=True)
class Picked:
    """A picture to read.

    Attributes:
        name: its path below the image root, without the split; a suffix is added by content.
        data: a file, its bytes, or an http address.
        where: what errors name; a file names itself.
        turn: that shows it, from 0.
    """

    name: str
    data: Path | bytes | str
    where: str | None = None
    turn: int = 0


class Brought(NamedTuple):
    """What a record says of its pictures, and the pictures."""

    names: tuple[str, ...]
    images: Mapping[str, bytes]
    notes: tuple[str, ...]


def bring(split: str, pictures: Iterable[Picked]) -> Brought:
    """Read pictures; one that is named twice in a record is two.

    Raises:
        SourceError: one of them cannot be read.
    """
    names: list[str] = []
    images: dict[str, bytes] = {}
    notes: dict[str, None] = {}
    for picked in pictures:
        picture = _read(picked)
        name = f"{split}/{picked.name}{picture.suffix}"
        names.append(name if name not in images else f"{split}/{picked.name}.{len(names)}{picture.suffix}")
        images[names[-1]] = picture.data
        if picture.note:
            notes[f"{PurePosixPath(picked.name).name}: {picture.note}"] = None
    return Brought(tuple(names), images, tuple(notes))


def _read(picked: Picked) -> Picture:
    if isinstance(picked.data, str):
        return read_picture(_downloaded(picked.data, picked.where), where=picked.where)
    if isinstance(picked.data, Path) and picked.data.is_file():
        status = picked.data.stat()
        return _read_file(picked.data, status.st_mtime_ns, status.st_size)
    return read_picture(picked.data, where=picked.where)


# Questions on one page follow each other, and decoding it is nearly all of the work.
@lru_cache(maxsize=4)
def _read_file(path: Path, changed: int, size: int) -> Picture:  # noqa: ARG001  # the file as it is now
    return read_picture(path)


def _downloaded(address: str, where: str | None) -> bytes:
    with TemporaryDirectory(prefix="phi3v-") as folder:
        try:
            by_hand = "fetch it by hand, and name the file"
            path = fetch(address, Path(folder) / "picture", most=MAX_BYTES, by_hand=by_hand)
        except UserError as error:
            raise SourceError("not-fetched", error.what, where=where, fix=error.fix) from error
        return path.read_bytes()


def image_bytes(cell: Any) -> bytes | None:
    """Return the bytes of a Hugging Face `Image` cell or a binary one; None if it holds none."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    return data if isinstance(data, bytes) else None


def name_of(path: PurePosixPath) -> str:
    """Return an image's name made of its path in the source, without a suffix.

    `a/1.jpg` is `a/1`; a suffix of another kind stays, since `1.gif` may lie beside `1.jpg`.
    """
    known = {".jpg", ".png", ".webp"}
    stem = path.name.removesuffix(path.suffix) if path.suffix.lower() in known else path.name
    return "/".join([*(safe_name(part) for part in path.parent.parts if part not in {"/", ".."}), safe_name(stem)])


def find_picture(name: str, folders: Iterable[Path], *, where: str) -> Path:
    """Return the picture of this name: the path as given below one of the folders, else its last part there.

    Args:
        name: as the annotations have it.
        folders: tried in order.
        where: the row that names it.

    Raises:
        SourceError: it is in none of them, or the name leads outside.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        what = f"picture {name!r:.80} leads out of the image folder"
        raise SourceError("unsafe-path", what, where=where, fix="name a file below it")
    folders = list(folders)
    for candidate in (path, PurePosixPath(path.name)):
        for folder in folders:
            if os.path.isfile(found := folder / candidate):  # noqa: PTH113  # False for a name that no file can have
                return found
    what = f"picture {name!r:.80} is not there"
    looked = ", ".join(str(folder) for folder in folders)
    raise SourceError("missing-image", what, where=where, fix=f"put it into {looked}, or give --image_dir")


def image_folders(src_dir: Path, image_dir: Path | None, names: Iterable[str]) -> list[Path]:
    """Return where pictures may lie: `image_dir` alone if it is given, else the folders of these names that are there.

    Raises:
        UserError: `image_dir` is no folder.
    """
    if image_dir is not None:
        if not image_dir.is_dir():
            raise UserError("no such folder", where=image_dir, fix="give the folder of the pictures as --image_dir")
        return [image_dir]
    return [folder for name in names if (folder := src_dir / name).is_dir()]
