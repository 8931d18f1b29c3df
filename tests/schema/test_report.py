import json
from pathlib import Path

import pytest

from phi3v.schema import check
from phi3v.schema.report import report

INVALID = Path(__file__).parents[2] / "fixtures" / "invalid"


def test_text_is_a_line_a_finding() -> None:
    findings = list(check(INVALID / "duplicate-id.same_file.jsonl"))

    assert "".join(report(findings, "text")) == f"{findings[0]}\n"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_is_one_object_whatever_the_number(count: int) -> None:
    findings = list(check(INVALID / "duplicate-id.same_file.jsonl")) * count

    parsed = json.loads("".join(report(findings, "json")))

    assert len(parsed["findings"]) == count
    for finding in parsed["findings"]:
        assert list(finding) == ["code", "file", "line", "column", "pointer", "message", "fix"]
        assert finding["line"] == 3
