"""Findings as text for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Literal

from phi3v.schema.findings import Finding

Format = Literal["text", "json"]


def report(findings: Iterable[Finding], form: Format) -> Iterator[str]:
    """Yield the report piece by piece, each piece with its line ends, so that it streams.

    Args:
        findings: consumed lazily.
        form: `text` is a line a finding, `file:line:column: code: /pointer: message`; `json` is one object
            `{"findings": [{"code", "file", "line", "column", "pointer", "message", "fix"}]}`.
    """
    return _json(findings) if form == "json" else (f"{finding}\n" for finding in findings)


def _json(findings: Iterable[Finding]) -> Iterator[str]:
    yield '{"findings": ['
    separator = "\n"
    for finding in findings:
        yield separator + json.dumps(finding.to_dict(), ensure_ascii=False)
        separator = ",\n"
    yield "]}\n"
