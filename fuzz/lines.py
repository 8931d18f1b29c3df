"""A coverage-guided fuzzer of what reads hostile lines: the line reader, the map of columns, the gate and the checks.

    pip install atheris            # CPython 3.11 or older, at the time of writing
    python fuzz/lines.py -max_total_time=300 CORPUS_DIR fixtures/valid fixtures/invalid

The first byte chooses what is tried; the rest is the input. A crash, or a broken promise, is written to crash-*.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import atheris
import orjson

with atheris.instrument_imports(include=["phi3v"]):
    from phi3v.schema.gate import Gate
    from phi3v.schema.jsonl import read_blocks, spans
    from phi3v.schema.lines import examine
    from phi3v.schema.locate import Columns
    from phi3v.schema.syntax import Fault
    from phi3v.schema.wording import Wording

GATES = {answered: Gate(answered=answered) for answered in (True, False)}
FILE = Path(tempfile.mkdtemp()) / "fuzzed.jsonl"


def lines_are_read_once(data: bytes) -> None:
    """Blocks and spans of any size hold each line once."""
    size, content = data[0] % 32 + 1, data[1:]
    FILE.write_bytes(content)
    whole = [line for block in read_blocks(FILE, size=size) for line in block.lines]
    parts = [line for span in spans(FILE, size) for block in read_blocks(FILE, span, size=size) for line in block.lines]
    assert whole == parts == [line for line in re.split(rb"(?<=\n)", content) if line]


def every_value(document: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield each value of a document, and its path; no recursion, as the input is hostile."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting += [((*path, part), member) for part, member in inner]


def columns_point_at_values(data: bytes) -> None:
    """Each place that the map gives is that of the value a parser finds there."""
    try:
        text, document = data.decode(), orjson.loads(data)
    except ValueError:
        return
    columns = Columns(text)
    for path, (start, end) in columns.repeated:
        assert orjson.loads(text[start - 1 : end - 1]) == path[-1]
    for path, value in every_value(document):
        start, end = columns.span(path)
        assert orjson.loads(text[start - 1 : end - 1]) == value


def checks_hold(data: bytes) -> None:
    """No line breaks the checks, every finding can be worded, and the gate passes nothing that they find wrong."""
    for line in data.split(b"\n"):
        for answered, gate in GATES.items():
            _, found = examine(line, answered=answered)
            words = Wording("a.jsonl", 1, line)
            for one in found:
                finding = words.of_fault(one) if isinstance(one, Fault) else words.of(one)
                assert finding.message
                assert 1 <= finding.column < finding.end_column
            assert gate.records([line]) is None or not found


TARGETS = (lines_are_read_once, columns_point_at_values, checks_hold, checks_hold)


def one_input(data: bytes) -> None:
    """Try one input."""
    if len(data) > 1:
        TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "error")
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
