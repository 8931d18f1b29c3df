"""Whether a block of lines leaves anything to say at all: a few passes in C and Rust over all of it at once.

Nearly every line of a data set is right, so a check costs what it takes to see that. What does not pass here is
looked at line by line, and only then in words. The gate may refuse a line that is right; it never passes a wrong one.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from itertools import chain
from operator import itemgetter
from typing import Any

import jsonschema_rs
import orjson

from phi3v.schema.keys import count_keys, may_repeat_keys
from phi3v.schema.rules import CLASS_LIST_START, is_listed
from phi3v.schema.tokens import CONTROL_TOKEN_PATTERN, IMAGE_TAG

Record = dict[str, Any]

# In the raw text: what a path must hold that is not relative, has an empty part, . or .., besides a control character's
# backslash. Two searches, and written out: so many pairs of letters are searched for at gigabytes a second.
_PATH_DOUBTS = (r'//|"/|/"', r'/\./|/\.\./|"\./|"\.\./|/\."|/\.\."|"\."|"\.\."')
_TEXT_DOUBT = rf"{CONTROL_TOKEN_PATTERN}|\\u00[2-7]"  # a control token, or a letter of one written as an escape
_TURNS, _USER = itemgetter("conversations"), itemgetter("user")
_MOST_ANSWERS = 10_000  # (question, answer) pairs that are remembered as right


@cache
def schema_text() -> str:
    """Return the published JSON Schema of a record."""
    return (files("phi3v.schema") / "conversation.schema.json").read_text(encoding="utf-8")


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the garbage collector from walking over records that all live: a third of the time it takes to read them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _searcher(pattern: str) -> Callable[[str], bool]:
    """Return a search through a block in microseconds: the regex engine under the validator, without backtracking."""
    return jsonschema_rs.Draft202012Validator(
        {"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions()
    ).is_valid


def _records_gate(*, paths: bool) -> Callable[[object], bool]:
    """Return a validator of a list of records; without `paths`, an image's path only has to be a text."""
    schema = json.loads(schema_text())
    definitions = schema.pop("$defs")
    if not paths:
        definitions["image"] = {"type": "string", "minLength": 1}
    del schema["$id"]  # else "#/$defs" would be looked for inside of it
    return jsonschema_rs.Draft202012Validator({"type": "array", "items": schema, "$defs": definitions}).is_valid


class Gate:
    """Passes blocks of lines that leave nothing to say.

    Args:
        answered: whether every last turn must have its answer.
    """

    def __init__(self, *, answered: bool) -> None:
        self._answered = answered
        self._any_path = _records_gate(paths=False)
        self._all = _records_gate(paths=True)
        self._path_doubts = [_searcher(pattern) for pattern in _PATH_DOUBTS]
        self._text_doubt = _searcher(_TEXT_DOUBT)
        self._lists_classes = _searcher(CLASS_LIST_START)
        self._listed: set[tuple[str, str]] = set()

    def records(self, lines: list[bytes]) -> list[Record] | None:
        """Return the records of some lines, or None if there may be something to say about one of them."""
        try:
            text = b"".join(lines).decode()
            records: list[Record] = list(map(orjson.loads, lines))
        except ValueError:  # not UTF-8, or not JSON
            return None
        doubtful = "\\" in text or any(doubt(text) for doubt in self._path_doubts)
        fits = self._all if doubtful else self._any_path
        good = fits(records) and not self._text_doubt(text) and self._obeys(text, records)
        return records if good else None

    def _obeys(self, text: str, records: list[Record]) -> bool:
        """Return whether records that fit the schema, and hold no control token, are right in all else."""
        turns = list(chain.from_iterable(map(_TURNS, records)))
        questions = list(map(_USER, turns))
        answers = [turn["assistant"] for turn in turns if "assistant" in turn]
        if questions.count(questions[0]) == len(questions):  # one question for all, as about the clips of a video set
            asked, pairs = questions[:1], {(questions[0], answer) for answer in set(answers)}
        else:
            asked, pairs = questions, {(turn["user"], turn["assistant"]) for turn in turns if "assistant" in turn}
        colons = text.count(":") - "".join(asked).count(":") * (len(questions) // len(asked))
        keys = sum(map(len, records)) + sum(map(len, turns))
        keys += sum([count_keys(record["metadata"]) for record in records if "metadata" in record])
        return (
            all(map(str.strip, asked))
            and all(map(str.strip, answers))
            # Each key has its colon: what is left of all colons without those in questions is an upper bound of the
            # keys, and mostly their number. That is cheaper than to look at what stands before each colon.
            and (colons == keys or not may_repeat_keys(text, keys))
            and (len(answers) == len(turns) or self._may_be_open(records))
            and ("<" not in text or all(map(_tags_fit, records)))
            and (not self._lists_classes(text) or self._are_listed(pairs))
        )

    def _may_be_open(self, records: list[Record]) -> bool:
        return not self._answered and all(
            "assistant" in turn for record in records for turn in record["conversations"][:-1]
        )

    def _are_listed(self, pairs: set[tuple[str, str]]) -> bool:
        if not all(is_listed(*pair) for pair in pairs - self._listed):
            return False
        if len(self._listed) > _MOST_ANSWERS:
            self._listed.clear()
        self._listed |= pairs
        return True


def _tags_fit(record: Record) -> bool:
    """Return whether the tags in `user` name each image once, or there is none, and none stands anywhere else."""
    turns = record["conversations"]
    named = [tag for turn in turns if "<|image_" in turn["user"] for tag in IMAGE_TAG.findall(turn["user"])]
    elsewhere = [record.get("system", "")]
    for turn in turns:
        elsewhere.append(turn.get("assistant", ""))
        elsewhere += turn.get("answers", ())
    if any("<|image_" in text for text in elsewhere):
        return False
    images = sum([len(turn["images"]) for turn in turns if "images" in turn])
    return not named or sorted(named) == sorted(map(str, range(1, images + 1)))
