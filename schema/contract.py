"""The JSON Schema: jsonschema-rs says whether a record fits, jsonschema where it does not, this module what it means.

A test holds that the two agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jsonschema_rs

from phi3v.schema.rules import LONGEST_QUOTE, Breach, count_noun, quote

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

# What is no path, as the schema has it, but without looking ahead: ten times as fast.
_NO_PATH = r"[\\\x00-\x1f]|//|^/|/$|(^|/)\.{1,2}(/|$)"
_KINDS = {"array": "a list", "string": "a text", "object": "an object"}


@cache
def schema_text() -> str:
    """Return the published JSON Schema of a record."""
    return (files("phi3v.schema") / "conversation.schema.json").read_text(encoding="utf-8")


@cache
def records_validator(*, paths: bool) -> Callable[[object], bool]:
    """Return a validator of a list of records; without `paths`, an image's path only has to be a text."""
    schema = json.loads(schema_text())
    definitions = schema.pop("$defs")
    own = {"minLength": 1, "not": {"pattern": _NO_PATH}} if paths else {}
    definitions["image"] = {"type": "string", **own}
    del schema["$id"]  # else "#/$defs" would be looked for inside of it
    return jsonschema_rs.Draft202012Validator({"type": "array", "items": schema, "$defs": definitions}).is_valid


def fits_schema(record: object) -> bool:
    """Return whether a parsed line is a record, as far as the JSON Schema can tell."""
    return records_validator(paths=True)([record])


def schema_breaches(record: object) -> list[Breach]:
    """Return how a record that the gate refuses breaks the JSON Schema."""
    try:
        errors = list(_worder().iter_errors(record))
    except RecursionError:
        return [Breach("schema", (), "a value is nested too deep", "write flatter metadata")]
    assert errors, "jsonschema-rs refuses a record that jsonschema accepts"
    return [breach for error in errors for breach in _breaches(error)]


def _breaches(error: ValidationError) -> Iterator[Breach]:
    path = tuple(error.absolute_path)
    if error.validator != "additionalProperties":
        yield Breach("schema", path, *_words(error))
        return
    value: Any = error.instance
    schema: Any = error.schema
    known = schema["properties"]
    for key in sorted(value.keys() - known.keys()):
        near = get_close_matches(key, known, 1)
        fix = f"did you mean {near[0]!r}?" if near else "remove it, or put it into 'metadata'"
        yield Breach("schema", (*path, key), f"{quote(key)} is not a field of the contract", fix)


@cache
def _worder() -> Draft202012Validator:
    # Imported late: only files with errors need it, and it costs more than all the rest of a small check.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema_text()))


def _words(error: ValidationError) -> tuple[str, str | None]:
    """Return the message and the remedy of a schema error."""
    value, keyword = error.instance, str(error.validator)
    if keyword == "type":
        return _type_words(error)
    if keyword == "pattern":
        return (
            f"{quote(value)} is not a relative path below the image root",
            "write it as in train/Archery/a.jpg, with the file below the image root",
        )
    if keyword == "minLength":
        what = f"{quote(value)} is shorter than {count_noun(1, 'character')}"
        return what, "write the text, or leave the field out where it is optional"
    fixes = {
        "required": "add the field",
        "minItems": "add an entry, or leave the field out where it is optional",
    }
    short = keyword == "required" or len(error.message) <= 2 * LONGEST_QUOTE
    return (str(error.message) if short else f"breaks {keyword!r}"), fixes.get(keyword)


def _type_words(error: ValidationError) -> tuple[str, str]:
    kind = str(error.validator_value)
    if error.absolute_path and error.absolute_path[-1] == "images" and isinstance(error.instance, str):
        what = f"'images' is the text {quote(error.instance)}, not a list of paths"
        return what, f"write a list, even for one image: [{quote(error.instance)}]"
    if isinstance(error.instance, list) and not error.absolute_path:
        return "the line is a list, not one record", "write one record a line: jq -c '.[]'"
    return f"{quote(error.instance)} is not of type {kind!r}", f"write {_KINDS[kind]} here"
