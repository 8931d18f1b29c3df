"""What is wrong with a line that is not JSON, or with a file that is no JSON lines at all, and how to mend it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

# What other kinds of file begin with, and what to do about them.
_SIGNATURES = (
    (b"\xff\xfe\x00\x00", "UTF-32", "iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"{\x00", "UTF-16", "iconv -f UTF-16LE -t UTF-8"),
    (b"\x00{", "UTF-16", "iconv -f UTF-16BE -t UTF-8"),
    (b"\x1f\x8b", "compressed by gzip", "gzip -dc"),
    (b"BZh", "compressed by bzip2", "bzip2 -dc"),
    (b"\xfd7zXZ\x00", "compressed by xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd -dc"),
    (b"PK\x03\x04", "a zip archive", "unzip -p"),
)
BOM = b"\xef\xbb\xbf"
_DOCUMENT_START = re.compile(rb"\s*(?:[{\[]\s*){1,3}")  # only brackets: no record ends in such a line
_LARGEST_DOCUMENT = 1 << 30  # bytes: a larger file is not read at once, only to word an error better


class Fault(NamedTuple):
    """What is wrong: a code, the 1-based column and the one after it, a message, a remedy (the code's if None)."""

    code: str
    column: int
    end_column: int
    message: str
    fix: str | None = None


def file_fault(path: Path, start: bytes) -> Fault | None:
    """Return why a file is no JSON lines as a whole; then nothing can be said about its lines.

    Args:
        path: the file.
        start: its first line, or the start of it.
    """
    for signature, what, command in _SIGNATURES:
        if start.startswith(signature):
            fix = f"{command} {path.name} > plain.jsonl"
            return Fault("encoding", 1, 2, f"the file is {what}, not plain UTF-8", fix)
    if _DOCUMENT_START.fullmatch(start) and _is_one_document(path):
        fix = f"one record a line: jq -c 'if type == \"array\" then .[] else . end' {path.name} > lines.jsonl"
        return Fault("encoding", 1, 2, "the file is one JSON document over many lines, not a record a line", fix)
    return None


def _is_one_document(path: Path) -> bool:
    if path.stat().st_size > _LARGEST_DOCUMENT:
        return False
    try:
        orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        return False
    return True


def line_fault(data: bytes) -> Fault:
    """Return what is wrong with a line that is not JSON.

    Args:
        data: the line without its end; `orjson` has refused it.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        column = len(data[: error.start].decode()) + 1
        fix = "write the file as UTF-8: if it is Latin-1, iconv -f LATIN1 -t UTF-8"
        return Fault("json", column, column + 1, f"byte {data[error.start]:#04x} is not UTF-8", fix)
    if not text.strip(" \t\r"):
        return Fault("json", 1, 2, "an empty line where a record should be", "remove the line")
    return next(fault for fault in _guesses(text) if fault is not None)


def _guesses(text: str) -> Iterator[Fault | None]:
    """Yield what may be wrong, the clearest words first; the last is never None."""
    yield _constant(text)
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        message, at = error.msg, error.pos
    try:
        # The standard parser words most errors better ("Unterminated string starting at") and points more exactly.
        json.loads(text)
    except json.JSONDecodeError as error:
        message, at = error.msg, error.pos
    except (ValueError, RecursionError):  # a number of thousands of digits, a nesting of thousands of levels
        pass
    if "surrogate" in message:
        yield _surrogate(text)
    yield Fault("json", at + 1, at + 2, _with_value(message, text, at), _fix(message, text, at))


def _with_value(message: str, text: str, at: int) -> str:
    """Return a message that quotes what stands at the place."""
    there = text[at : at + 12]
    return f"{message}, before {there!r}" if there and "string" not in message else message


def _fix(message: str, text: str, at: int) -> str | None:
    if text.startswith("{'"):
        return "write it with json.dumps: this is Python's own form"
    if "control character" in message:
        return "write it as an escape, such as \\n or \\t"
    before_bracket = text[:at].rstrip().endswith(",") and text[at : at + 1] in {"}", "]"}
    if before_bracket or "trailing comma" in message:  # as Python 3.13 words it
        return "remove the comma before the bracket"
    if "property name" in message:
        return "write the name in double quotes"
    if "Extra data" in message:
        return "write one record a line"
    return None


_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?(?:NaN|Infinity)\b)')
_SURROGATE = re.compile(r"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u)[dD][c-fC-F]..)")


def _constant(text: str) -> Fault | None:
    for found in _STRING_OR_CONSTANT.finditer(text):
        if name := found[1]:
            fix = "write null, or leave the field out"
            return Fault("json", found.start() + 1, found.end() + 1, f"{name} is not JSON", fix)
    return None


def _surrogate(text: str) -> Fault | None:
    if not (found := _SURROGATE.search(text)):
        return None
    message = f"{found[0]!r} is half a character: a surrogate without its other half".replace("\\\\", "\\")
    return Fault("json", found.start() + 1, found.end() + 1, message, "write the character itself, or both halves")
