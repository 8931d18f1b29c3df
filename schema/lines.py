"""What can be said about lines by themselves: syntax, schema and rules, block by block.

Pure work on bytes, so that it can be done in other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

import orjson

from phi3v.schema.contract import fits_schema, schema_breaches
from phi3v.schema.findings import Finding
from phi3v.schema.gate import Gate, Record, collector_off
from phi3v.schema.jsonl import Block
from phi3v.schema.keys import count_keys, may_repeat_keys, repeated_keys
from phi3v.schema.leaks import Tie, ties_of
from phi3v.schema.lengths import Texts, count_at_most, count_exactly, tokenizer_count
from phi3v.schema.rules import Breach, breaches, doubts
from phi3v.schema.syntax import BOM, Fault, line_fault
from phi3v.schema.wording import Wording

Role = Literal["train", "val", "test"]
ROLES: tuple[Role, ...] = ("train", "val", "test")
_ID = itemgetter("id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """What to find out about lines beside their findings.

    Attributes:
        answered: every last turn must have its answer.
        images: the names of the images.
        lengths: the tokens of the texts.
        tokenizer: a model's folder, to count them exactly.
        ties: what ties a record to others, across splits, and its last answer.
    """

    answered: bool = False
    images: bool = False
    lengths: bool = False
    tokenizer: Path | None = None
    ties: bool = False


class Known(NamedTuple):
    """What is known of a block's lines; a list has an entry a line, None of a line that is no record.

    Attributes:
        findings: by the number of the line in the block, from 0; their own line numbers count from the span's start.
        ids: of the records.
        images: their names, a list a turn, if wanted.
        texts: the tokens of the texts, if wanted.
        ties: as `ties_of` gives them, if wanted.
        labels: the last answers, if wanted.
    """

    findings: dict[int, list[Finding]]
    ids: list[str | None]
    images: list[list[list[str]] | None]
    texts: list[Texts | None]
    ties: list[list[Tie] | None]
    labels: list[str | None]


def role_of(path: Path) -> Role | None:
    """Return what a file is for, by its name: *_train.jsonl, *_val.jsonl, *_test.jsonl."""
    return next((role for role in ROLES if path.stem.endswith(f"_{role}")), None)


class LineChecker:
    """Checks blocks of lines.

    Args:
        file: the path as the user gave it.
        wants: what else to find out.
    """

    def __init__(self, file: str, wants: Wants) -> None:
        self._file = file
        self._wants = wants
        self._gate = Gate(answered=wants.answered)
        self._count: Callable[[str], int] | None = tokenizer_count(wants.tokenizer) if wants.tokenizer else None

    def look(self, block: Block) -> Known:
        """Return what is known of the lines of a block."""
        findings: dict[int, list[Finding]] = {}
        with collector_off():
            passed = self._gate.records(block.lines)
            records: Sequence[Record | None] = passed or [
                self._look_at_line(block, index, findings) for index in range(len(block.lines))
            ]
            ids = list(map(_ID, passed)) if passed else [record["id"] if record else None for record in records]
            known = self._known(records, ids, findings)
            del passed, records  # before the collector comes on again: it would walk over all of them
        return known

    def _look_at_line(self, block: Block, index: int, findings: dict[int, list[Finding]]) -> Record | None:
        """Return the line's record, None if it is none; note what is wrong with it."""
        line = block.lines[index]
        if passed := self._gate.records([line]):
            return passed[0]
        data = line.removesuffix(b"\n")
        record, found = examine(data, answered=self._wants.answered)
        if found:
            words = Wording(self._file, block.number + index, data)
            findings[index] = [words.of_fault(one) if isinstance(one, Fault) else words.of(one) for one in found]
        return record

    def _known(
        self, records: Sequence[Record | None], ids: list[str | None], findings: dict[int, list[Finding]]
    ) -> Known:
        wants = self._wants
        return Known(
            findings,
            ids,
            [images_of(record) if record else None for record in records] if wants.images else [],
            [self._texts(record) if record else None for record in records] if wants.lengths else [],
            [ties_of(record) if record else None for record in records] if wants.ties else [],
            [last_answer(record) if record else None for record in records] if wants.ties else [],
        )

    def _texts(self, record: Record) -> Texts:
        return count_exactly(record, self._count) if self._count else count_at_most(record)


def images_of(record: Record) -> list[list[str]]:
    """Return the names of each turn's images, of a record that fits the schema."""
    return [turn.get("images", []) for turn in record["conversations"]]


def last_answer(record: Record) -> str | None:
    """Return what the model must answer in the last turn, None if it is open."""
    answer: str | None = record["conversations"][-1].get("assistant")
    return answer


def examine(data: bytes, *, answered: bool) -> tuple[Record | None, list[Fault | Breach]]:
    """Return the record of one line, None if it does not fit the schema, and all that is wrong with the line.

    Args:
        data: the line without its end.
        answered: whether its last turn must have its answer.
    """
    faults: list[Fault | Breach] = []
    if data.startswith(BOM):
        fix = "save it as UTF-8 without BOM: sed -i '1s/^\\xEF\\xBB\\xBF//'"
        faults.append(Fault("encoding", 1, 2, "the line starts with a byte order mark", fix))
        data = data.removeprefix(BOM)
    try:
        record = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None, [*faults, line_fault(data)]
    text = data.decode()
    if may_repeat_keys(text, count_keys(record)):
        faults += [
            Breach("duplicate-key", path, f"{path[-1]!r} stands twice in its object", extent=extent)
            for path, extent in repeated_keys(text)
        ]
    if not fits_schema(record):
        return None, [*faults, *schema_breaches(record)]
    faults += [*breaches(record), *doubts(record)]
    last = record["conversations"][-1]
    if answered and "assistant" not in last:
        where = ("conversations", len(record["conversations"]) - 1)
        faults.append(Breach("unanswered", where, "the last turn has no 'assistant'"))
    return record, faults
