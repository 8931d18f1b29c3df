"""`manifest.json`: what a conversion was made with and what came out, so that anybody can check it later.

The checksums of images and of source files would make it long; they stand in `images.sha256` and `sources.sha256`,
one line a file as `sha256sum -c` reads them, and their own checksums stand here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import orjson

from phi3v.converters.render import digest
from phi3v.schema import UserError
from phi3v.schema.jsonl import atomic_write, read_lines

MANIFEST = "manifest.json"
IMAGES = "images.sha256"
SOURCES = "sources.sha256"
REJECTED = "rejected.jsonl"
CARD = "README.md"
WORK = ".convert"  # of a run: its settings, its lock, its journal
RUN = "run.json"
LOCK = "lock"
DISTRIBUTIONS = {"cv2": "opencv-python-headless"}  # module -> what pip calls it, where the two differ
VERSION = 1


class Difference(NamedTuple):
    """A file that is not as the manifest has it: `changed`, `missing` or `extra`."""

    state: str
    name: str


def settings_of(name: str, options: Any, modules: tuple[str, ...]) -> dict[str, Any]:
    """Return what decides the bytes of a conversion: the converter, its options and the versions of its libraries."""
    # pillow writes what has to be encoded again.
    libraries = {"phi3v", "pillow", *(DISTRIBUTIONS.get(module, module) for module in modules)}
    return {
        "converter": name,
        "options": {
            key: str(value) if isinstance(value, PurePath) else value for key, value in asdict(options).items()
        },
        "versions": {library: _version(library) for library in sorted(libraries)},
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how the settings of two runs differ, one text each: `--num_frames: 8 before, 4 now`."""
    if before.get("converter") != now["converter"]:
        return [f"converter: {before.get('converter')} before, {now['converter']} now"]
    now = orjson.loads(orjson.dumps(now))  # tuples become lists, as they were written
    return [
        f"{prefix}{key.removesuffix('_')}: {old.get(key)} before, {new.get(key)} now"
        for part, prefix in (("options", "--"), ("versions", ""))
        for old, new in [(before.get(part, {}), now[part])]
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def read_manifest(out_dir: Path) -> dict[str, Any]:
    """Read the manifest of a converted folder.

    Raises:
        UserError: there is none, or it is none of ours.
    """
    path = out_dir / MANIFEST
    try:
        manifest = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        unfinished = (out_dir / WORK).is_dir()
        what = "a conversion that is not finished" if unfinished else f"no {MANIFEST} here"
        fix = "run the same convert command again" if unfinished else "give the --out_dir of a conversion"
        raise UserError(what, where=out_dir, fix=fix) from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read it ({error})", where=path, fix="convert again with --overwrite") from error
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise UserError("is no manifest that this version knows", where=path, fix="convert again with --overwrite")
    return manifest


def write_manifest(out_dir: Path, content: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write the manifest, which says that the conversion is complete, with the checksums of the named files."""
    files = {name: {"bytes": (out_dir / name).stat().st_size, "sha256": digest(out_dir / name)} for name in names}
    whole = {"version": VERSION, **content, "files": files}
    with atomic_write(out_dir / MANIFEST) as file:
        file.write(orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def verify(out_dir: Path) -> Iterator[Difference]:
    """Yield each file of a converted folder that is changed, missing or extra; reads every one of them.

    Raises:
        UserError: the folder holds no manifest.
    """
    files = {name: entry["sha256"] for name, entry in read_manifest(out_dir)["files"].items()}
    for name, expected in files.items():
        yield from _compare(out_dir, name, expected)
    listed = files.keys() | {MANIFEST}
    if (out_dir / IMAGES).is_file():
        images = dict(read_sums(out_dir / IMAGES))
        for name, expected in images.items():
            yield from _compare(out_dir, name, expected)
        listed |= images.keys()
    for path in sorted(out_dir.rglob("*")):
        name = path.relative_to(out_dir).as_posix()
        if name not in listed and not path.is_dir() and not name.startswith(WORK):
            yield Difference("extra", name)


def read_sums(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and SHA-256 of each line of a file that `sha256sum -c` reads, too."""
    for line in read_lines(path):
        expected, _, name = line.data.decode(errors="surrogateescape").partition("  ")
        yield name, expected


def sum_line(name: str, sha256: str) -> bytes:
    """Return such a line."""
    return f"{sha256}  {name}\n".encode(errors="surrogateescape")


def _compare(out_dir: Path, name: str, expected: str) -> Iterator[Difference]:
    path = out_dir / name
    if not path.is_file():
        yield Difference("missing", name)
    elif digest(path) != expected:
        yield Difference("changed", name)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # a module of a package that pip calls otherwise
        return "unknown"
