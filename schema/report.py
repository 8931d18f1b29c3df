"""Findings for people and for programs: text, JSON, SARIF 2.1.0, JUnit XML, GitHub annotations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from itertools import groupby
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from phi3v.schema.findings import CODES, Finding
from phi3v.schema.options import Format

_SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def report(findings: Iterable[Finding], form: Format) -> Iterator[str]:
    """Yield the report piece by piece, each piece with its line ends, so that it streams.

    Args:
        findings: consumed lazily.
        form: `text` is `file:line:column: code: /pointer: message` with an excerpt and a remedy; `json` one object
            `{"findings": [{"code", "severity", "file", "line", ...}]}`; `sarif` for code scanning; `junit` for test
            reports, a suite a file; `github` for annotations, as a workflow's commands.
    """
    forms: dict[Format, Callable[[Iterable[Finding]], Iterator[str]]] = {
        "text": _text, "json": _json, "sarif": _sarif, "junit": _junit, "github": _github,
    }  # fmt: skip
    return forms[form](findings)


def _text(findings: Iterable[Finding]) -> Iterator[str]:
    for finding in findings:
        excerpt = finding.excerpt
        shown = ""
        if excerpt and excerpt.text:
            before, value = excerpt.text[: excerpt.start], excerpt.text[excerpt.start :][: excerpt.length]
            shown = f"    {excerpt.text}\n    {' ' * _cells(before)}{'^' * max(1, _cells(value))}\n"
        yield f"{finding}\n{shown}    fix: {finding.fix}\n"


def _cells(text: str) -> int:
    """Return how many columns of a terminal a text takes: a Chinese character two, a combining accent none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _json(findings: Iterable[Finding]) -> Iterator[str]:
    yield '{"findings": ['
    yield from _list(finding.to_dict() for finding in findings)
    yield "]}\n"


def _list(items: Iterable[object]) -> Iterator[str]:
    separator = "\n"
    for item in items:
        yield separator + json.dumps(item, ensure_ascii=False)
        separator = ",\n"


def _sarif(findings: Iterable[Finding]) -> Iterator[str]:
    rules = [
        {
            "id": name,
            "shortDescription": {"text": code.title},
            "fullDescription": {"text": code.why},
            "help": {"text": code.fix},
            "defaultConfiguration": {"level": code.severity},
        }
        for name, code in CODES.items()
    ]
    driver = {"name": "phi3v-data validate", "version": version("phi3v"), "rules": rules}
    yield f'{{"$schema": "{_SARIF_SCHEMA}", "version": "2.1.0", "runs": [{{\n'
    yield f'"tool": {json.dumps({"driver": driver}, ensure_ascii=False)},\n'
    yield '"columnKind": "unicodeCodePoints", "results": ['
    yield from _list(map(_sarif_result, findings))
    yield "]}]}\n"


def _sarif_result(finding: Finding) -> dict[str, Any]:
    region = {
        "startLine": finding.line,
        "startColumn": finding.column,
        "endLine": finding.line,
        "endColumn": finding.end_column,
    }
    if finding.excerpt:
        region["snippet"] = {"text": finding.excerpt.text}  # type: ignore[assignment]
    return {
        "ruleId": finding.code,
        "ruleIndex": list(CODES).index(finding.code),
        "level": finding.severity,
        "message": {"text": f"{finding.message}. Fix: {finding.fix}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": quote(finding.file)}, "region": region},
                "logicalLocations": [{"fullyQualifiedName": finding.pointer or "/"}],
            }
        ],
    }


def _junit(findings: Iterable[Finding]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="phi3v-data validate">\n'
    for file, own in groupby(findings, key=lambda finding: finding.file):
        cases = list(own)
        failures = sum(finding.severity == "error" for finding in cases)
        yield f"<testsuite name={_attribute(file)} tests={_attribute(len(cases))} failures={_attribute(failures)}>\n"
        yield from map(_junit_case, cases)
        yield "</testsuite>\n"
    yield "</testsuites>\n"


def _junit_case(finding: Finding) -> str:
    name = f"{finding.code} at {finding.line}:{finding.column}"
    text = escape(_xml(f"{finding}\nfix: {finding.fix}"))
    inner = f"<system-out>{text}</system-out>"
    if finding.severity == "error":
        inner = f"<failure message={_attribute(finding.message)} type={_attribute(finding.code)}>{text}</failure>"
    return f"<testcase classname={_attribute(finding.file)} name={_attribute(name)}>{inner}</testcase>\n"


def _attribute(value: object) -> str:
    return quoteattr(_xml(str(value)))


def _xml(text: str) -> str:
    """Return a text without what XML 1.0 cannot hold (section 2.2)."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)


def _github(findings: Iterable[Finding]) -> Iterator[str]:
    for finding in findings:
        place = {
            "file": finding.file, "line": finding.line, "endLine": finding.line,
            "col": finding.column, "endColumn": finding.end_column, "title": finding.code,
        }  # fmt: skip
        values = ",".join(f"{key}={_github_property(str(value))}" for key, value in place.items())
        message = f"{finding.pointer}: " * bool(finding.pointer) + f"{finding.message}\nfix: {finding.fix}"
        yield f"::{finding.severity} {values}::{_github_text(message)}\n"


def _github_text(text: str) -> str:
    """Return a text as a workflow command takes it (actions/toolkit, packages/core/src/command.ts)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _github_property(text: str) -> str:
    return _github_text(text).replace(":", "%3A").replace(",", "%2C")
