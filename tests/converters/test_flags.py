"""Options of converters as flags: a name that Python has taken, values that are repeated, what differs between runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phi3v.cli import data
from phi3v.converters import docvqa, table
from phi3v.converters.manifest import differences, settings_of


def parsed(name: str, *arguments: str) -> dict[str, Any]:
    command = data.commands["convert"].get_command(None, name)  # type: ignore[attr-defined]
    params: dict[str, Any] = command.make_context(name, ["--out_dir", "x", *arguments]).params
    return params


def test_from_and_repeated_flags() -> None:
    params = parsed("docvqa", "--from", "full", "--prompt", "One: {question}", "--prompt", "Two: {question}")

    assert params["from_"] == "full"
    assert params["prompt"] == ("One: {question}", "Two: {question}")
    assert parsed("docvqa")["prompt"] == ()


def test_a_table_is_mapped_by_flags() -> None:
    params = parsed("table", "--src_dir", "t.csv", "--image", "left", "--image", "right", "--user", "Q: {q}")

    assert params["image"] == ("left", "right")
    assert table.Options(**{name: params[name] for name in ("src_dir", "image", "user")}).src_dir == Path("t.csv")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("table", "--src_dir qa.csv --user question"), ("hub", "--dataset OWNER/NAME"), ("docvqa", "--src_dir DIR")],
)
def test_help_shows_an_example_that_works(name: str, shown: str) -> None:
    command = data.commands["convert"].get_command(None, name)  # type: ignore[attr-defined]

    assert f"phi3v-data convert {name} {shown}" in command.epilog
    command.make_context(name, command.epilog.split(f"convert {name} ")[1].split())


def test_options_that_differ_are_called_as_their_flags_are() -> None:
    before, now = (settings_of("docvqa", docvqa.Options(from_=which), ()) for which in ("mini", "full"))  # type: ignore[arg-type]

    before = json.loads(json.dumps(before))  # as the manifest has it
    assert differences(before, now) == ["--from: mini before, full now"]
