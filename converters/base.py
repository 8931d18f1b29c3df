"""What a converter is: a module that turns published data into drafts of the contract's records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from phi3v.schema import Conversation, Turn, UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to convert; a converter derives its own, with what its `render` needs. Items must pickle.

    Attributes:
        split: one of `SPLITS`.
        source: what it is made from, as a user finds it: a path below `src_dir`, or `file:line`.
        files: the files that `render` reads; their checksums are kept.
    """

    split: str
    source: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A record before its images are files; the engine adds its id, from the split and the item's place in the plan.

    Attributes:
        turns: the conversation.
        images: path below the image root -> the file's bytes.
        label: the class, for the closing counts.
        system: text put before the first turn.
        metadata: anything JSON can hold.
        notes: what somebody should know of this source although it was used, one sentence each.
    """

    turns: tuple[Turn, ...]
    images: Mapping[str, bytes] = field(default_factory=dict)
    label: str | None = None
    system: str | None = None
    metadata: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def record(self, *, index: int, split: str, source: str) -> Conversation:
        """Return the record as it is written."""
        return Conversation(
            id=record_id(split, index), source=source, turns=self.turns, system=self.system, metadata=self.metadata
        )


def record_id(split: str, index: int) -> str:
    """Return the id of item `index` of a plan, which counts failed items, too: no skip or retry moves another's."""
    return f"{split}-{index:010d}"


class SourceError(UserError):
    """A source that cannot become a record.

    Args:
        reason: a short name that never changes, under which such failures are counted: `no-frames`.
        what, where, fix: as `UserError` has them.
    """

    def __init__(self, reason: str, what: str, *, where: Path | str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.reason, self.what, self.where, self.fix))


def _rebuild(reason: str, what: str, where: Path | str | None, fix: str | None) -> SourceError:
    return SourceError(reason, what, where=where, fix=fix)


class Converter(Protocol):
    """A module of this shape, with a docstring that names Source, Licence, Turns and Splits.

    Attributes:
        SUMMARY: one line for `--help`.
        MODULES: what `render` imports from the `convert` extra.
        Options: a frozen dataclass of `Annotated[type, "help"]` fields, one of them `src_dir`, which is None where
            the data are to be fetched.

    `EXAMPLE` may hold the options that `--help` shows, without --out_dir.
    """

    SUMMARY: str
    MODULES: tuple[str, ...]
    Options: type[Any]

    def plan(self, options: Any) -> Iterable[Any]:
        """Return the `Item`s in their final order; cheap, reads no media. A list also tells how many there are."""

    def render(self, item: Any) -> Draft:
        """Make one item's record and image bytes; heavy, and pure, so that it can run anywhere."""

    def fetch(self, options: Any, folder: Path) -> Any:
        """Download the data into `folder` (temporary), and return options that point there."""

    def remarks(self, options: Any, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the manifest shall say besides, such as what was fetched; optional, as `fetch` is."""
