"""Whether a block of lines leaves anything to say at all: a few passes in C and Rust over all of it at once.

Nearly every line of a data set is right, so a check costs what it takes to see that. What does not pass here is
looked at line by line, and only then in words. The gate may refuse a line that is right; it never passes a wrong one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any

import jsonschema_rs
import orjson

from phi3v.schema.contract import records_validator
from phi3v.schema.keys import count_keys, may_repeat_keys
from phi3v.schema.rules import CLASS_LIST_START, image_tags, is_listed
from phi3v.schema.tokens import CONTROL_TOKEN_PATTERN

Record = dict[str, Any]

# In the raw text: what a path must hold that is empty, absolute, has an empty part, . or .., besides the backslash of a
# control character. Two searches, and written out: so many pairs of letters are searched for at gigabytes a second.
_PATH_DOUBTS = (r'//|"/|/"|""', r'/\./|/\.\./|"\./|"\.\./|/\."|/\.\."|"\."|"\.\."')
_TEXT_DOUBT = rf"{CONTROL_TOKEN_PATTERN}|\\u00[2-7]"  # a control token, or a letter of one written as an escape
_TAG_START = "<|image_"
_FIRST_TAG = f"{_TAG_START}1|>"
_TURNS, _USER = itemgetter("conversations"), itemgetter("user")
_MOST_ANSWERS = 10_000  # (question, answer) pairs that are remembered as right


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


class Gate:
    """Passes blocks of lines that leave nothing to say.

    Args:
        answered: whether every last turn must have its answer.
    """

    def __init__(self, *, answered: bool) -> None:
        self._answered = answered
        self._any_path = records_validator(paths=False)
        self._all = records_validator(paths=True)
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
        if questions.count(questions[0]) == len(questions):  # as about the clips of a video set: one to look at
            del questions[1:]
        return (
            all(map(str.strip, questions))
            and all(map(str.strip, answers))
            and _each_key_once(text, records, turns, questions)
            and (len(answers) == len(turns) or self._may_be_open(records))
            and ("<" not in text or _tags_fit(records, turns, answers))
            and (not self._lists_classes(text) or self._are_listed(turns, questions, answers))
        )

    def _may_be_open(self, records: list[Record]) -> bool:
        return not self._answered and all(
            "assistant" in turn for record in records for turn in record["conversations"][:-1]
        )

    def _are_listed(self, turns: list[Record], questions: list[str], answers: list[str]) -> bool:
        if len(questions) == 1:
            pairs = {(questions[0], answer) for answer in set(answers)}
        else:
            pairs = {(turn["user"], turn["assistant"]) for turn in turns if "assistant" in turn}
        if not all(is_listed(*pair) for pair in pairs - self._listed):
            return False
        if len(self._listed) > _MOST_ANSWERS:
            self._listed.clear()
        self._listed |= pairs
        return True


def _each_key_once(text: str, records: list[Record], turns: list[Record], questions: list[str]) -> bool:
    """Return False if an object may name a key twice; `questions` are the turns', or the one that all turns have.

    Each key has its colon: what is left of all colons without those in questions is an upper bound of the keys, and
    mostly their number. That is cheaper than to look at what stands before each colon.
    """
    colons = text.count(":") - "".join(questions).count(":") * (len(turns) // len(questions))
    in_records = sum(map(len, records))
    keys = in_records + sum(map(len, turns))
    if in_records > 3 * len(records):  # more than id, source and conversations
        keys += _keys_in_metadata(text, records, turns)
    return colons == keys or not may_repeat_keys(text, keys)


def _keys_in_metadata(text: str, records: list[Record], turns: list[Record]) -> int:
    metadata = [record["metadata"] for record in records if "metadata" in record]
    keys = sum(map(len, metadata))
    if text.count("{") > len(records) + len(turns) + len(metadata):  # a brace in a text, or an object in an object
        keys += sum(count_keys(list(fields.values())) for fields in metadata)
    return keys


def _tags_fit(records: list[Record], turns: list[Record], answers: list[str]) -> bool:
    """Return whether the tags of each record name its images once, or there is none, and none stands but in `user`."""
    others = [record["system"] for record in records if "system" in record]
    others += [answer for turn in turns if "answers" in turn for answer in turn["answers"]]
    if _TAG_START in "\n".join(answers) or _TAG_START in "\n".join(others):
        return False
    if len(turns) > len(records):
        return not any(next(image_tags(record), None) for record in records)
    if _one_tag_in_front(turns):
        return True
    for turn in turns:
        question = turn["user"]
        if count := question.count(_TAG_START):
            tags = _tags(len(turn.get("images", ())))
            if count != len(tags) or not all(map(question.__contains__, tags)):
                return False
    return True


def _one_tag_in_front(turns: list[Record]) -> bool:
    """Return whether each turn has one image, and begins with its tag: as questions about pages, seen all at once."""
    if not all(len(turn.get("images", ())) == 1 for turn in turns):
        return False
    joined = "\x01".join(map(_USER, turns))
    between = len(turns) - 1
    return (
        joined.startswith(_FIRST_TAG)
        and joined.count(f"\x01{_FIRST_TAG}") == between
        and joined.count("\x01") == between
        and joined.count(_TAG_START) == len(turns)
    )


@cache
def _tags(images: int) -> list[str]:
    """Return the tags of a record with so many images."""
    return [f"{_TAG_START}{number}|>" for number in range(1, images + 1)]
