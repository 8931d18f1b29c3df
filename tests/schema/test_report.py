import json
from pathlib import Path

import pytest

from phi3v.schema import check
from phi3v.schema.report import report

INVALID = Path(__file__).parents[2] / "fixtures" / "invalid"


def test_text_shows_the_value_with_a_caret() -> None:
    findings = list(check(INVALID / "duplicate-id.same_file.jsonl"))

    first, excerpt, caret, fix = "".join(report(findings, "text")).splitlines()

    assert first == str(findings[0])
    assert excerpt[caret.index("^") : caret.rindex("^") + 1] == '"a-1"'
    assert fix == "    fix: give each record its own id"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_is_one_object_whatever_the_number(count: int) -> None:
    findings = list(check(INVALID / "duplicate-id.same_file.jsonl")) * count

    parsed = json.loads("".join(report(findings, "json")))

    assert len(parsed["findings"]) == count
    for finding in parsed["findings"]:
        assert list(finding) == [
            "code", "severity", "file", "line", "column", "end_column", "pointer", "message", "fix",
        ]  # fmt: skip
        assert finding["line"] == 3
