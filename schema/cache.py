"""Remembers what was found in files, so that unchanged ones cost the reading of their bytes.

An entry is named by a digest of the files' content, the options and the version; it holds until a picture changes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import orjson

from phi3v.schema.findings import Excerpt, Finding
from phi3v.schema.gate import schema_text
from phi3v.schema.jsonl import atomic_write


class Remembered(NamedTuple):
    """What a check gave: how many records it read, and its findings in order."""

    records: int
    findings: list[Finding]


class Cache:
    """A folder of results; git is told to leave it out.

    Args:
        folder: made if it is not there.
        options: what else the results depend on.
    """

    def __init__(self, folder: Path, options: Sequence[object]) -> None:
        self._folder = folder
        self._options = repr((version("phi3v"), _code_stamp(), schema_text(), options)).encode()

    def key(self, files: Iterable[Path]) -> str:
        """Return the name of the entry of some files: of their paths and their content."""
        digest = hashlib.sha256(self._options)
        for file in files:
            with file.open("rb") as content:
                digest.update(os.fsencode(file.absolute()) + hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()

    def load(self, key: str) -> Remembered | None:
        """Return what is remembered, None if there is nothing or a picture has changed since."""
        try:
            entry = orjson.loads((self._folder / f"{key}.json").read_bytes())
            if entry["pictures"] != _stamp(entry["names"]):
                return None
            findings = [
                Finding(**{**fields, "excerpt": fields["excerpt"] and Excerpt(**fields["excerpt"])})
                for fields in entry["findings"]
            ]
            return Remembered(entry["records"], findings)
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not written by this version
            return None

    def save(self, key: str, remembered: Remembered, pictures: Iterable[Path]) -> None:
        """Remember a result and the pictures that it depends on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / ".gitignore").write_text("*\n")
        names = [str(picture) for picture in pictures]
        entry = {
            "records": remembered.records,
            "findings": remembered.findings,
            "names": names,
            "pictures": _stamp(names),
        }
        with atomic_write(self._folder / f"{key}.json", durable=False) as file:
            file.write(orjson.dumps(entry))


def _code_stamp() -> str:
    """Return what changes when a developer edits the checks: a version alone would not."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return repr([(source.name, source.stat().st_mtime_ns) for source in sources])


def _stamp(names: Iterable[str]) -> str:
    """Return a digest of sizes and times of files; links are followed."""
    digest = hashlib.blake2b()
    for name in names:
        try:
            status = os.stat(name)  # noqa: PTH116  # Path would double the time
            digest.update(b"%d %d," % (status.st_size, status.st_mtime_ns))
        except OSError:
            digest.update(b"gone,")
    return digest.hexdigest()
