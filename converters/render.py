"""One item, as a worker does it: rendered, checked against the contract, its images laid down beside the journal."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

import orjson

from phi3v.converters.base import Converter, Draft, Item
from phi3v.converters.journal import Converted, Entry, Rejected, Stored
from phi3v.schema import Conversation, RecordError, UserError
from phi3v.schema.rules import breaches


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What is the same for every item of a run.

    Attributes:
        module: the converter's importable name.
        source: the data set's name.
        src_dir: below which source files are named.
        stage: an existing folder for images that have no name yet.
    """

    module: str
    source: str
    src_dir: Path
    stage: Path


def render_item(workshop: Workshop, job: tuple[int, Item]) -> Entry:
    """Render item `job[1]`, which is number `job[0]` of the plan.

    Raises:
        UserError: its images cannot be written, which is no fault of the item.
    """
    index, item = job
    try:
        draft = cast("Converter", import_module(workshop.module)).render(item)
        line = _checked_line(draft.record(index=index, split=item.split, source=workshop.source), draft)
        sources = tuple(_stored_source(path, workshop.src_dir) for path in item.files)
    except Exception as error:  # noqa: BLE001  # the worker boundary: whatever a source does to a library, it costs this item
        return rejected(index, item, error)
    images = tuple(
        _stage(workshop.stage / f"{index}.{number}", name, data)
        for number, (name, data) in enumerate(draft.images.items())
    )
    return Converted(
        index=index,
        split=item.split,
        source=item.source,
        line=line,
        label=draft.label,
        images=images,
        sources=sources,
        notes=draft.notes,
        staged=workshop.stage.name,
    )


def rejected(index: int, item: Item, error: Exception) -> Rejected:
    """Return what is kept of a failure."""
    kind = type(error).__name__
    match error:
        case RecordError():
            fix = "mend the text or the name that it is made from"
            error, reason, trace = UserError(f"breaks the contract: {error}", fix=fix), "breaks-contract", None
        case UserError():
            reason, trace = getattr(error, "reason", "unusable"), None
        case _:
            reason, trace = kind, "".join(traceback.format_exception(error))
    told = error if isinstance(error, UserError) else UserError(f"{kind}: {error}")
    return Rejected(
        index=index,
        split=item.split,
        source=item.source,
        reason=reason,
        error=kind,
        what=told.what,
        where=None if told.where is None else str(told.where),
        fix=told.fix,
        trace=trace,
    )


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_line(record: Conversation, draft: Draft) -> str:
    line = record.to_line()
    if breach := next(breaches(orjson.loads(line)), None):
        raise RecordError(breach.message)
    _check_names(record, draft.images)
    return line


def _check_names(record: Conversation, images: Mapping[str, bytes]) -> None:
    """A record brings exactly the images that it names, and none that would overwrite another of them."""
    if odd := images.keys() ^ set(record.images):
        raise RecordError(f"image {min(odd)!r} is named and not brought, or brought and not named")
    if len({name.casefold() for name in images}) < len(images):
        raise RecordError("two of its images have names that differ by case alone")


def _stored_source(path: Path, src_dir: Path) -> Stored:
    name = path.relative_to(src_dir).as_posix() if path.is_relative_to(src_dir) else path.name
    return Stored(name, path.stat().st_size, digest(path))


def _stage(path: Path, name: str, data: bytes) -> Stored:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise unwritable(path.parents[2], error) from error
    return Stored(name, len(data), hashlib.sha256(data).hexdigest())


def unwritable(out_dir: Path, error: OSError) -> UserError:
    """Return what ends a run whose output cannot be written."""
    fix = "free some space, or choose another --out_dir; the same command goes on where it stopped"
    return UserError(f"cannot write here ({error.strerror or error})", where=out_dir, fix=fix)
