"""A coverage-guided fuzzer of what reads hostile lines: the line reader, the map of columns, the gate and the checks.

    pip install atheris            # CPython 3.11 or older, at the time of writing
    python fuzz/lines.py -max_total_time=300 CORPUS_DIR fixtures/valid fixtures/invalid

The first byte chooses what is tried; the rest is the input. A crash, or a broken promise, is written to crash-*.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import atheris

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
    expected = [line for line in content.split(b"\n") if line] if b"\n\n" not in content else None
    whole = b"".join(line for block in read_blocks(FILE, size=size) for line in block.lines)
    parts = b"".join(
        line for span in spans(FILE, size) for block in read_blocks(FILE, span, size=size) for line in block.lines
    )
    assert whole == parts == content
    if expected is not None:
        assert [line.rstrip(b"\n") for block in read_blocks(FILE, size=size) for line in block.lines] in (
            expected,
            [b"", *expected],
        )


def columns_point_at_values(data: bytes) -> None:
    """Each place that the map gives is that of the value a parser finds there."""
    try:
        text = data.decode()
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    columns = Columns(text)
    assert json.loads(text[columns.of(()) - 1 : columns.span(())[1] - 1]) == value
    for path, column in columns.keys:
        assert json.JSONDecoder().raw_decode(text, column - 1)[0] == path[-1]
        json.JSONDecoder().raw_decode(text, columns.of(path) - 1)


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
