"""How columns become records: the options that table and hub share, and what they mean."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import orjson

from phi3v.converters.annotations import Fault, Row
from phi3v.converters.base import SourceError
from phi3v.converters.cells import conversation_of, is_empty, list_of, picked, text_of
from phi3v.converters.pictured import Picked, image_bytes
from phi3v.converters.posed import Posed, check_answered, faulty
from phi3v.converters.prompts import check_templates, choose, fields_of, fill, unknown_name
from phi3v.converters.splits import SPLIT_OF, check_fractions, hashed_split
from phi3v.schema import Turn, UserError

IMAGE_MARK = re.compile(r"<image>")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnOptions:
    """Which columns a record is made of."""

    user: Annotated[
        tuple[str, ...], "What the user says: a column, or a template such as 'Q: {question}'; one of several is drawn."
    ] = ()
    assistant: Annotated[str | None, "What the model must answer: a column or a template."] = None
    answers: Annotated[str | None, "Column of every accepted answer: a list, or a text that is a JSON list."] = None
    image: Annotated[tuple[str, ...], "Column of a picture: a path, bytes, an Image, or a list of these."] = ()
    image_dir: Annotated[Path | None, "Below which pictures' paths lie. [default: the table's folder]"] = None
    system: Annotated[str | None, "Text before the first turn: a column or a template."] = None
    turns: Annotated[
        str | None, "Column of whole conversations, instead of --user: {from, value}, {role, content}."
    ] = None
    conversation: Annotated[str | None, "Column: neighbouring rows that share it are the turns of one record."] = None
    label: Annotated[str | None, "Column of the class, for counts; it goes to metadata, too."] = None
    group: Annotated[str | None, "Column of what must not lie in two splits. [default: the pictures]"] = None
    metadata: Annotated[tuple[str, ...], "Column that is kept in the record's metadata."] = ()
    separator: Annotated[str | None, "Between the parts of a cell that is a list, where it is no JSON list."] = None
    split_column: Annotated[str | None, "Column of the split. [default: by the file's name, else by hash]"] = None
    val_fraction: Annotated[float, "Share that is val, where neither a name nor a column tells the split."] = 0.1
    test_fraction: Annotated[float, "Share that is test, likewise."] = 0.0
    allow_download: Annotated[bool, "Fetch pictures that are addresses; without it they are refused."] = False
    seed: Annotated[int, "Of the draw among several --user."] = 0


class Place(NamedTuple):
    """What rows of one source share.

    Attributes:
        split: as the source tells it; None if it does not.
        folder: below which pictures' paths lie.
        stem: what pictures without a name are called by, before the row's number.
    """

    split: str | None
    folder: Path
    stem: str


class ColumnMapping:
    """Columns to records, checked against the columns that there are.

    Args:
        options: from the command line.
        columns: the names of those that there are.

    Raises:
        UserError: an option names a column that is not there; the message lists those that are.
    """

    def __init__(self, options: ColumnOptions, columns: Iterable[str]) -> None:
        self._options = options
        known = list(columns)
        check_fractions(options.val_fraction, options.test_fraction)
        if bool(options.user) == bool(options.turns):
            what = "no column of questions" if not options.user else "--user and --turns exclude each other"
            fix = f"give --user COLUMN or --turns COLUMN; there are: {', '.join(known)}"
            raise UserError(what, fix=fix)
        beside = [name for name in ("assistant", "answers", "conversation") if getattr(options, name) is not None]
        if options.turns and beside:
            what = f"--turns takes a whole conversation from one cell; --{beside[0]} has no place beside it"
            raise UserError(what, fix="leave one of them out")
        self._user = [_template("--user", text, known) for text in options.user]
        self._assistant = _template("--assistant", options.assistant, known) if options.assistant else None
        self._system = _template("--system", options.system, known) if options.system else None
        single = ("answers", "turns", "conversation", "label", "group", "split_column")
        named = {name: [value] for name in single if (value := getattr(options, name)) is not None}
        for name, values in {**named, "image": options.image, "metadata": options.metadata}.items():
            for value in values:
                if value not in known:
                    raise unknown_name(f"--{name} names column {value!r}", value, known)

    def records(self, rows: Iterable[Row], place: Place) -> Iterator[Posed]:
        """Yield the records of rows; a row that cannot become one is an item that says so."""
        key = self._options.conversation
        if key is None:
            for number, row in enumerate(rows):
                yield self._record([row], place, number)
            return
        seen: dict[str, str] = {}
        grouped = groupby(rows, lambda row: _text(row, key) or row.place)
        for number, (value, members) in enumerate(grouped):
            group = list(members)
            if seen.setdefault(value, group[0].place) != group[0].place:
                what = f"{key} {value!r:.40} was at {seen[value]} already, and other rows lie between"
                split = place.split or "train"
                yield faulty(split, group[0].place, Fault("scattered", what, f"sort the table by {key!r}"))
                continue
            yield self._record(group, place, number)

    def _record(self, rows: list[Row], place: Place, number: int) -> Posed:
        split = place.split or "train"
        try:
            for row in rows:
                row.check()
            split = self._split(rows[0], place)
            pictures = self._pictures(rows, place, number)
            return self._posed(rows, split, pictures)
        except SourceError as error:
            return faulty(split, rows[0].place, Fault.of(error))

    def _posed(self, rows: list[Row], split: str, pictures: tuple[Picked, ...]) -> Posed:
        options, first = self._options, rows[0]
        system = self._filled(self._system, first) if self._system else None
        prompt = choose(self._user, first.place, options.seed) if self._user else 0
        if options.turns:
            turns, spoken = self._spoken(first, len(pictures))
            system = system or spoken
        else:
            turns = tuple(self._turn(row, prompt) for row in rows)
        check_answered(split, turns, first.place)
        kept = [*options.metadata, *(name for name in (options.label, options.group) if name)]
        metadata = {name: _plain(first, name) for name in kept if not is_empty(first.data.get(name))}
        if options.group and options.group in metadata:
            metadata["group"] = str(metadata[options.group])
        if len(self._user) > 1:
            metadata["prompt"] = prompt
        return Posed(
            split=split,
            source=first.place,
            files=tuple(dict.fromkeys(one.data for one in pictures if isinstance(one.data, Path))),
            turns=turns,
            pictures=pictures,
            label=_text(first, options.label) or None,
            system=system or None,
            metadata=metadata,
        )

    def _turn(self, row: Row, prompt: int) -> Turn:
        user = self._filled(self._user[prompt], row)
        if not user.strip():
            raise SourceError("no-question", "the user says nothing", where=row.place, fix="fill the cell")
        answers = self._answers(row)
        assistant = self._filled(self._assistant, row) if self._assistant else next(iter(answers), "")
        return Turn(user=user, assistant=assistant if assistant.strip() else None, answers=answers)

    def _answers(self, row: Row) -> tuple[str, ...]:
        column = self._options.answers
        if column is None:
            return ()
        cells = list_of(row.data.get(column), separator=self._options.separator, where=row.place, column=column)
        return tuple(dict.fromkeys(text_of(cell, where=row.place, column=column) for cell in cells))

    def _spoken(self, row: Row, pictures: int) -> tuple[tuple[Turn, ...], str | None]:
        """Return the turns of a cell that holds a conversation, and its system text."""
        column = str(self._options.turns)
        spoken = list(conversation_of(row.data.get(column), where=row.place, column=column))
        system = "\n".join(text for role, text in spoken if role == "system") or None
        said = _tagged([(role, text) for role, text in spoken if role != "system"], pictures, row)
        roles = [role for role, _ in said]
        if not said or roles != [("user", "assistant")[number % 2] for number in range(len(roles))]:
            what = f"{column!r} is no alternation of user and assistant: {', '.join(roles) or 'nothing'}"
            raise SourceError("wrong-field", what, where=row.place, fix="begin with the user, and take turns")
        texts = [text for _, text in said]
        if not all(text.strip() for text in texts):
            raise SourceError("wrong-field", f"{column!r} has an empty turn", where=row.place, fix="remove it")
        answers: list[str | None] = [*texts[1::2], *([None] * (len(texts) % 2))]
        return tuple(
            Turn(user=user, assistant=answer) for user, answer in zip(texts[::2], answers, strict=True)
        ), system

    def _filled(self, template: str, row: Row) -> str:
        """Return a template filled; it says nothing if all of its fields are empty."""
        cells = {name: _inner(row.data, name) for name in fields_of(template)}
        if cells and all(is_empty(cell) for cell in cells.values()):
            return ""
        return fill(template, {name: text_of(cell, where=row.place, column=name) for name, cell in cells.items()})

    def _pictures(self, rows: list[Row], place: Place, number: int) -> tuple[Picked, ...]:
        """Return the pictures of rows; one that an earlier row has shown is not shown again."""
        shown: list[Picked] = []
        for turn, row in enumerate(rows):
            earlier = {one.data for one in shown}
            cells = [
                cell
                for column in self._options.image
                for cell in list_of(
                    row.data.get(column), separator=self._options.separator, where=row.place, column=column
                )
            ]
            here = [
                picked(
                    cell,
                    number=count,
                    folder=place.folder,
                    where=row.place,
                    stem=f"{place.stem}-{number:06d}" + (f"-{turn}" if turn else ""),
                    allow_download=self._options.allow_download,
                )
                for count, cell in enumerate(cells)
            ]
            shown += [replace(one, turn=turn) for one in here if one.data not in earlier]
        return tuple(shown)

    def _split(self, row: Row, place: Place) -> str:
        options = self._options
        if options.split_column:
            told = _text(row, options.split_column)
            if told.strip().lower() not in SPLIT_OF:
                what = f"{options.split_column!r} is {told!r:.40}, which is no split"
                raise SourceError("unknown-split", what, where=row.place, fix=f"write one of {', '.join(SPLIT_OF)}")
            return SPLIT_OF[told.strip().lower()]
        if place.split:
            return place.split
        key = _text(row, options.group) or _key(row, options.image) or row.place
        return hashed_split(key, options.val_fraction, options.test_fraction)


def _template(flag: str, text: str, known: list[str]) -> str:
    """Return a template: of a column's name, one with fields, or a text that cannot be meant as a name, as it is."""
    if text in known:
        return f"{{{text}}}"
    if not re.fullmatch(r"[\w.-]+", text):
        inner = [name for name in fields_of(text) if name.partition(".")[0] in known]
        check_templates(flag, [text], [*known, *inner])
        return text
    raise unknown_name(f"{flag} names column {text!r}", text, known)


def _key(row: Row, columns: tuple[str, ...]) -> str:
    """Return what the row's pictures are known by: paths or contents."""
    cells = [row.data.get(column) for column in columns]
    parts = [data if (data := image_bytes(cell)) is not None else repr(cell).encode() for cell in cells]
    return hashlib.sha256(b"\0".join(parts)).hexdigest() if parts else ""


def _inner(data: dict[str, Any], name: str) -> Any:
    """Return a cell, or with `column.field` what a struct holds."""
    if name in data:
        return data[name]
    column, _, field = name.partition(".")
    cell = data.get(column)
    return cell.get(field) if isinstance(cell, dict) else None


def _text(row: Row, column: str | None) -> str:
    """Return a column's text; empty without a column."""
    return text_of(row.data.get(column), where=row.place, column=column) if column else ""


def _plain(row: Row, column: str) -> Any:
    """Return a cell as JSON has it: dates as texts, NaN inside of lists as null.

    Raises:
        SourceError: it holds what JSON cannot, such as bytes.
    """
    try:
        return orjson.loads(orjson.dumps(row.data[column], default=_named))
    except TypeError as error:
        what = f"{column!r} cannot be kept in metadata ({error})"
        raise SourceError("wrong-field", what, where=row.place, fix="leave it out of --metadata") from error


def _named(value: Any) -> str:
    if isinstance(value, bytes):
        raise TypeError("bytes")
    return str(value)


def _tagged(said: list[tuple[str, str]], pictures: int, row: Row) -> list[tuple[str, str]]:
    """Turn LLaVA's `<image>` into our numbered tags, each in its place."""
    count = sum(len(IMAGE_MARK.findall(text)) for role, text in said if role == "user")
    if count == 0:
        return said
    if count != pictures:
        what = f"{count} <image> for {pictures} pictures"
        raise SourceError("wrong-field", what, where=row.place, fix="write one for each picture, or none")
    numbers = iter(range(1, pictures + 1))
    return [
        (role, IMAGE_MARK.sub(lambda _: f"<|image_{next(numbers)}|>", text) if role == "user" else text)
        for role, text in said
    ]
