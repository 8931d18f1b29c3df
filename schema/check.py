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
from phi3v.schema.locate import column_of, pointer_of
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
    # Hidden ones are files that a writer has not finished.
    found = sorted(path for path in folder.glob("*.jsonl") if not path.name.startswith("."))
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
        self._gate = jsonschema_rs.Draft202012Validator(orjson.loads(schema_text()))

    def check(self, path: Path) -> Iterator[Finding]:
        """Yield the findings of one file.

        Raises:
            UserError: the file cannot be read.
        """
        root = self._image_root or path.parent / "images"
        try:
            for line in read_lines(path):
                self.records += 1
                yield from self._check_line(line, str(path), root)
        except OSError as error:
            raise UserError(f"cannot read it ({error.strerror})", where=path, fix="name a readable file") from error

    def _check_line(self, line: Line, file: str, root: Path) -> Iterator[Finding]:
        try:
            record = orjson.loads(line.data)
        except orjson.JSONDecodeError as error:
            yield _syntax_finding(line, file, error)
            return
        text = line.data.decode()

        def finding(code: str, path: tuple[str | int, ...], message: str, fix: str | None = None) -> Finding:
            return Finding(
                code=code,
                file=file,
                line=line.number,
                column=column_of(text, path),
                pointer=pointer_of(path),
                message=message,
                fix=fix or CODES[code].fix,
            )

        if not self._gate.is_valid(record):
            for invalid in _schema_errors(record):
                yield finding("schema", tuple(invalid.absolute_path), _message(invalid), _schema_fix(invalid))
            return
        if first := self._ids.get(record["id"]):
            where = f"line {first[1]}" if first[0] == file else f"line {first[1]} of {first[0]}"
            yield finding("duplicate-id", ("id",), f"id {record['id']!r} is also on {where}")
        else:
            self._ids[record["id"]] = (file, line.number)
        for breach in breaches(record):
            yield finding(breach.code, breach.path, breach.message)
        if self._images:
            for breach in _image_breaches(record, root):
                yield finding(breach.code, breach.path, breach.message)


def _image_breaches(record: dict[str, Any], root: Path) -> Iterator[Breach]:
    for turn, fields in enumerate(record["conversations"]):
        for number, name in enumerate(fields.get("images", [])):
            path = ("conversations", turn, "images", number)
            target = root / name
            if not target.is_file():
                what = "is not a file" if target.exists() else "does not exist"
                yield Breach("image-missing", path, f"{name!r} {what} below {root}")
            elif not target.resolve().is_relative_to(root.resolve()):
                yield Breach("image-outside", path, f"{name!r} leads to {target.resolve()}, outside {root}")


def _syntax_finding(line: Line, file: str, error: orjson.JSONDecodeError) -> Finding:
    message, column = error.msg, error.pos + 1
    try:
        # The standard parser words most errors better ("Unterminated string starting at") and points more exactly.
        json.loads(line.data)
    except json.JSONDecodeError as clearer:
        message, column = clearer.msg, clearer.pos + 1
    except UnicodeDecodeError as broken:
        message, column = (
            f"byte {line.data[broken.start]:#04x} is not UTF-8",
            len(line.data[: broken.start].decode()) + 1,
        )
    except RecursionError:
        pass
    if not line.data.strip():
        message = "an empty line where a record should be"
    return Finding(
        code="json", file=file, line=line.number, column=column, pointer="", message=message, fix=CODES["json"].fix
    )


@cache
def _worder() -> Draft202012Validator:
    # Imported late: only files with errors need it, and it costs more than all the rest of a small check.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema_text()))


def _schema_errors(record: object) -> list[ValidationError]:
    errors = sorted(_worder().iter_errors(record), key=lambda error: [str(part) for part in error.absolute_path])
    assert errors, "jsonschema-rs refuses a record that jsonschema accepts"
    return errors


def _message(error: ValidationError) -> str:
    if error.validator == "pattern":
        return f"{_quote(error.instance)} is not a relative path below the image root"
    if error.validator == "minLength":
        return f"{_quote(error.instance)} is shorter than {error.validator_value} character"
    if error.validator in {"required", "additionalProperties"}:
        return str(error.message)
    if error.validator == "type":
        return f"{_quote(error.instance)} is not of type {error.validator_value!r}"
    return str(error.message) if len(error.message) <= 2 * _LONGEST_QUOTE else f"breaks {error.validator!r}"


def _quote(value: object) -> str:
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
