"""The breaches of a record that the gate refuses, in words: jsonschema says where, this module says what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

from phi3v.schema.gate import schema_text
from phi3v.schema.rules import Breach, count_noun

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

_LONGEST_QUOTE = 60  # characters of a value that a message quotes
_KINDS = {"array": "a list", "string": "a text", "object": "an object"}


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


def quote(value: object) -> str:
    """Return a value as a message shows it: as JSON, and not too long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."


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
    short = keyword == "required" or len(error.message) <= 2 * _LONGEST_QUOTE
    return (str(error.message) if short else f"breaks {keyword!r}"), fixes.get(keyword)


def _type_words(error: ValidationError) -> tuple[str, str]:
    kind = str(error.validator_value)
    if error.absolute_path and error.absolute_path[-1] == "images" and isinstance(error.instance, str):
        what = f"'images' is the text {quote(error.instance)}, not a list of paths"
        return what, f"write a list, even for one image: [{quote(error.instance)}]"
    if isinstance(error.instance, list) and not error.absolute_path:
        return "the line is a list, not one record", "write one record a line: jq -c '.[]'"
    return f"{quote(error.instance)} is not of type {kind!r}", f"write {_KINDS[kind]} here"
