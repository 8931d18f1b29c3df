"""What a converter is: a module that turns published data into drafts of the contract's records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from phi3v.schema import Conversation, Turn

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A record before its images are files.

    Attributes:
        id: the record's id; its number is the item's place in the plan.
        split: one of `SPLITS`.
        turns: the conversation.
        images: path below the image root -> the file's bytes.
    """

    id: str
    split: str
    turns: tuple[Turn, ...]
    images: Mapping[str, bytes] = field(default_factory=dict)

    def record(self, source: str) -> Conversation:
        """Return the record as it is written."""
        return Conversation(id=self.id, source=source, turns=self.turns)


class Converter(Protocol):
    """A module of this shape. Items must pickle; `render` is pure, so that it can run anywhere.

    Attributes:
        SUMMARY: one line for `--help`.
        MODULES: what `render` imports from the `convert` extra.
        Options: a frozen dataclass of `Annotated[type, "help"]` fields; `src_dir` is None where the data are to be
            fetched.
    """

    SUMMARY: str
    MODULES: tuple[str, ...]
    Options: type[Any]

    def plan(self, options: Any) -> Iterator[Any]:
        """Yield the items in their final order; cheap, and reads no media."""

    def render(self, item: Any) -> Draft:
        """Make one item's record and image bytes; heavy."""

    def fetch(self, options: Any, folder: Path) -> Any:
        """Download the data into `folder` (temporary), and return options that point there."""
