"""Check JSONL files against the contract: syntax, schema, rules, ids, images. Streams; prints nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import orjson

from phi3v.schema.errors import UserError
from phi3v.schema.findings import CODES, Finding
from phi3v.schema.jsonl import Line, read_lines
from phi3v.schema.locate import Columns, pointer_of
from phi3v.schema.rules import Breach, breaches

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

_LONGEST_QUOTE = 60  # characters of a value that a message quotes


def check(path: Path, *, image_root: Path | None = None, images: bool = True) -> Iterator[Finding]:
    """Yield what is wrong with one file, in the order of its lines; see `Checker`."""
    return Checker(image_root=image_root, images=images).check(path)


@cache
def schema_text() -> str:
    """Return the published JSON Schema of a record."""
    return (files("phi3v.schema") / "conversation.schema.json").read_text(encoding="utf-8")


def jsonl_files(folder: Path) -> list[Path]:
    """Return the data files of a converted folder in name order.

    Raises:
        UserError: there is none.
    """
    # Hidden ones are files that a writer has not finished; rejected.jsonl is a converter's ledger of failures.
    names = (path for path in folder.glob("*.jsonl") if not path.name.startswith(".") and path.name != "rejected.jsonl")
    found = sorted(path for path in names if path.is_file())
    if not found:
        raise UserError("no .jsonl file in this folder", where=folder, fix="convert first: phi3v-data convert --help")
    return found


class Checker:
    """Checks files one after another; ids must be unique across all that one checker has seen.

    Args:
        image_root: where the images' paths start; `images/` beside each file if None.
        images: whether to look for the images at all.

    Attributes:
        records: lines read so far.
    """

    def __init__(self, *, image_root: Path | None = None, images: bool = True) -> None:
        self.records = 0
        self._image_root = image_root
        self._images = images
        self._ids: dict[str, tuple[str, int]] = {}
        self._real: dict[Path, bool] = {}  # whether a folder lies below the image root, links followed
        self._gate = jsonschema_rs.Draft202012Validator(orjson.loads(schema_text()))

    def check(self, path: Path) -> Iterator[Finding]:
        """Yield the findings of one file.

        Raises:
            UserError: the file cannot be read.
        """
        root = self._image_root or path.parent / "images"
        lines = read_lines(path)
        while True:
            try:
                line = next(lines, None)
            except OSError as error:
                what = f"cannot read it ({error.strerror})"
                raise UserError(what, where=path, fix="name a readable file") from error
            if line is None:
                return
            self.records += 1
            yield from self._check_line(line, str(path), root)

    def _check_line(self, line: Line, file: str, root: Path) -> Iterator[Finding]:
        try:
            record = orjson.loads(line.data)
        except orjson.JSONDecodeError as error:
            yield _syntax_finding(line, file, error)
            return
        if self._gate.is_valid(record):
            found = [*self._duplicates(record, file, line.number), *breaches(record)]
            found += self._image_breaches(record, root) if self._images else []
        else:
            found = _schema_breaches(record)
        if not found:
            return
        columns = Columns(line.data.decode())
        for breach in sorted(found, key=lambda breach: columns.of(breach.path)):
            yield Finding(
                code=breach.code,
                file=file,
                line=line.number,
                column=columns.of(breach.path),
                pointer=pointer_of(breach.path),
                message=breach.message,
                fix=breach.fix or CODES[breach.code].fix,
            )

    def _duplicates(self, record: dict[str, Any], file: str, line: int) -> Iterator[Breach]:
        first = self._ids.setdefault(record["id"], (file, line))
        if first != (file, line):
            where = f"line {first[1]}" if first[0] == file else f"line {first[1]} of {first[0]}"
            yield Breach("duplicate-id", ("id",), f"id {record['id']!r} is also on {where}")

    def _image_breaches(self, record: dict[str, Any], root: Path) -> Iterator[Breach]:
        for turn, fields in enumerate(record["conversations"]):
            for number, name in enumerate(fields.get("images", [])):
                try:
                    code, what = self._look(root, name)
                except OSError as error:
                    code, what = "image-missing", f"cannot be read ({error.strerror})"
                if code:
                    message = f"{quote(name)} {what} below {root}"
                    yield Breach(code, ("conversations", turn, "images", number), message)

    def _look(self, root: Path, name: str) -> tuple[str, str]:
        """Return the code and the fault of an image, both empty if it is there."""
        target = root / name
        if not target.is_file():
            return "image-missing", "is not a file" if target.exists() else "does not exist"
        if target.parent not in self._real:
            self._real[target.parent] = target.parent.resolve().is_relative_to(root.resolve())
        inside = self._real[target.parent]
        if target.is_symlink():
            inside = target.resolve().is_relative_to(root.resolve())
        return ("", "") if inside else ("image-outside", f"leads to {target.resolve()}, and does not lie")


def _syntax_finding(line: Line, file: str, error: orjson.JSONDecodeError) -> Finding:
    message, column = error.msg, error.pos + 1
    try:
        # The standard parser words most errors better ("Unterminated string starting at") and points more exactly.
        json.loads(line.data.decode())
    except UnicodeDecodeError as broken:
        message, column = (
            f"byte {line.data[broken.start]:#04x} is not UTF-8",
            len(line.data[: broken.start].decode()) + 1,
        )
    except json.JSONDecodeError as clearer:
        message, column = clearer.msg, clearer.pos + 1
    except (ValueError, RecursionError):  # a number of thousands of digits, a nesting of thousands of levels
        pass
    if not line.data.strip():
        message, column = "an empty line where a record should be", 1
    return Finding(
        code="json", file=file, line=line.number, column=column, pointer="", message=message, fix=CODES["json"].fix
    )


def _schema_breaches(record: object) -> list[Breach]:
    try:
        errors = list(_worder().iter_errors(record))
    except RecursionError:
        return [Breach("schema", (), "a value is nested too deep")]
    assert errors, "jsonschema-rs refuses a record that jsonschema accepts"
    return [Breach("schema", tuple(error.absolute_path), _message(error), _schema_fix(error)) for error in errors]


@cache
def _worder() -> Draft202012Validator:
    # Imported late: only files with errors need it, and it costs more than all the rest of a small check.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema_text()))


def _message(error: ValidationError) -> str:
    if error.validator == "pattern":
        return f"{quote(error.instance)} is not a relative path below the image root"
    if error.validator == "minLength":
        return f"{quote(error.instance)} is shorter than {error.validator_value} character"
    if error.validator in {"required", "additionalProperties"}:
        return str(error.message)
    if error.validator == "type":
        return f"{quote(error.instance)} is not of type {error.validator_value!r}"
    return str(error.message) if len(error.message) <= 2 * _LONGEST_QUOTE else f"breaks {error.validator!r}"


def quote(value: object) -> str:
    """Return a value as a message shows it: as JSON, and not too long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."


def _schema_fix(error: ValidationError) -> str | None:
    if error.validator == "type":
        kinds = {"array": "a list", "string": "a text", "object": "an object"}
        return f"write {kinds[str(error.validator_value)]} here"
    fixes = {
        "required": "add the field",
        "additionalProperties": "remove the field, or put it into 'metadata'",
        "pattern": "write it as in train/Archery/a.jpg, with the file below the image root",
        "minLength": "write the text, or leave the field out where it is optional",
        "minItems": "add an entry, or leave the field out where it is optional",
    }
    return fixes.get(str(error.validator))
