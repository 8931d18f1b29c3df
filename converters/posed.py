"""Items whose texts are ready when they are planned, and whose pictures are read when they are rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phi3v.converters.annotations import Fault
from phi3v.converters.base import Draft, Item, SourceError
from phi3v.converters.pictured import Picked, bring
from phi3v.schema import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Posed(Item):
    """One item of the plan.

    Attributes:
        turns: without images.
        pictures: in the order of the turns that show them.
        label: the class, for the closing counts.
        system: text put before the first turn.
        metadata: of the record; an empty one is left out.
        fault: why this is no record.
    """

    turns: tuple[Turn, ...] = ()
    pictures: tuple[Picked, ...] = ()
    label: str | None = None
    system: str | None = None
    metadata: Mapping[str, Any] | None = None
    fault: Fault | None = None


def faulty(split: str, place: str, fault: Fault) -> Posed:
    """Return an item that costs itself alone."""
    return Posed(split=split, source=place, fault=fault)


def render(item: Posed) -> Draft:
    """Read one item's pictures."""
    if item.fault:
        raise item.fault.error(item.source)
    brought = bring(item.split, item.pictures)
    shown: dict[int, list[str]] = {}
    for picked, name in zip(item.pictures, brought.names, strict=True):
        shown.setdefault(picked.turn, []).append(name)
    return Draft(
        turns=tuple(replace(turn, images=tuple(shown.get(number, ()))) for number, turn in enumerate(item.turns)),
        images=brought.images,
        label=item.label,
        system=item.system,
        metadata=item.metadata or None,
        notes=brought.notes,
    )


def joined(items: Sequence[Posed], own: Sequence[str]) -> Posed:
    """Return the first item with the turns of all; metadata in `own` become lists, the rest is the first one's."""
    each = [dict(one.metadata or {}) for one in items]
    lists = {key: [one.get(key) for one in each] for key in own if any(key in one for one in each)}
    shared = {key: value for key, value in each[0].items() if key not in own}
    return replace(items[0], turns=tuple(turn for one in items for turn in one.turns), metadata=lists | shared)


def answered(user: str, answers: Sequence[str]) -> Turn:
    """Return a turn whose answer is the first of those that a scorer accepts; without one it can only be predicted."""
    accepted = tuple(dict.fromkeys(answers))
    if not accepted:
        return Turn(user=user)
    return Turn(user=user, assistant=accepted[0], answers=accepted)


def check_answered(split: str, turns: Sequence[Turn], place: str) -> None:
    """Raise if a turn has no answer; only the last one of a test record may lack it: it can be predicted."""
    needed = turns[:-1] if split == "test" else turns
    if any(turn.assistant is None for turn in needed):
        what = f"no answer, without which a {split} record teaches and scores nothing"
        raise SourceError("no-answer", what, where=place, fix="fill it in, or move the row to a test file")
