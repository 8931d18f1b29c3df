"""The documents say what is so."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from phi3v.cli import data, model, train_command
from phi3v.converters import Run
from phi3v.converters.registry import CONVERTERS
from phi3v.schema import CODES, Conversation
from phi3v.schema.findings import codes_page

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_readme() -> None:
    commands = [*(f"phi3v-data {name}" for name in data.commands), *(f"phi3v-model {name}" for name in model.commands)]

    assert [command for command in [*commands, "phi3v-train"] if command not in README] == []


def test_every_flag_that_the_readme_names_exists() -> None:
    known = {option for param in train_command().params for option in param.opts}
    for group in (data, model):
        known |= {option for command in group.commands.values() for param in command.params for option in param.opts}
    for name in CONVERTERS:
        command = data.commands["convert"].get_command(None, name)  # type: ignore[attr-defined]
        known |= {option for param in command.params for option in param.opts}

    named = set(re.findall(r"(?<![\w-])--[a-z_]+", README)) - {"--help", "--nproc_per_node"}

    assert named <= known


def test_the_record_in_the_readme_is_one() -> None:
    (line,) = re.findall(r"```json\n(.*)\n```", README)

    assert Conversation.from_line(line).to_line() == line + "\n"


def test_the_hook_in_the_readme_is_the_one_we_have() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())

    assert [hook["id"] for hook in yaml.safe_load(shown)[0]["hooks"]] == [hook["id"] for hook in hooks]
    assert hooks[0]["files"] == r"\.jsonl$"


def test_ci_runs_the_readmes_test_command() -> None:
    assert "\nmake test\n" in README
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_link_leads_out_of_the_checkout_but_the_one_for_typing() -> None:
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    links = [line.split("\t")[1] for line in listed.splitlines() if line.startswith("120000")]

    assert links == [".typing/phi3v"]


def test_the_page_of_codes_is_the_table() -> None:
    assert (ROOT / "docs" / "codes.md").read_text() == codes_page(), "phi3v-data explain --all > docs/codes.md"


def test_the_page_on_validation_names_only_what_there_is() -> None:
    page = (ROOT / "docs" / "validation.md").read_text()
    options = {option for param in data.commands["validate"].params for option in param.opts}

    assert set(re.findall(r"(?<![\w-])--[a-z_]+", page)) <= options | {"--all"}
    assert {name for name in re.findall(r"`([a-z]+-[a-z-]+)`", page) if name.split("-")[0] in GROUPS} <= set(CODES)


GROUPS = {code.split("-")[0] for code in CODES}


def test_every_flag_of_converting_is_documented_and_exists() -> None:
    text = (ROOT / "docs" / "converting.md").read_text()
    known = {"--help"}
    for name in CONVERTERS:
        command = data.commands["convert"].get_command(None, name)  # type: ignore[attr-defined]
        known |= {option for param in command.params for option in param.opts}

    named = set(re.findall(r"(?<![\w-])--[a-z_]+", text))

    assert named - {"--no"} <= known
    assert {f"--{field.name}" for field in fields(Run)} <= named


def test_every_reason_that_the_code_gives_is_documented() -> None:
    text = (ROOT / "docs" / "converting.md").read_text()
    given = set()
    for path in (ROOT / "converters").glob("*.py"):
        given |= set(
            re.findall(r'(?:SourceError|Fault)\(\s*"([a-z-]+)"|Lost\("([a-z-]+)"|reason="([a-z-]+)"', path.read_text())
        )

    reasons = {part for groups in given for part in groups if part} | {"breaks-contract"}

    assert len(reasons) > 10
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in text] == []


@pytest.mark.parametrize("name", sorted(CONVERTERS))
def test_every_converter_has_a_page_whose_commands_and_record_are_good(name: str) -> None:
    page = (ROOT / "docs" / "datasets" / f"{name}.md").read_text()
    command = data.commands["convert"].get_command(None, name)  # type: ignore[attr-defined]
    shown = re.findall(rf"^phi3v-data convert {name} (.+?)(?:  +#.*)?$", page, re.MULTILINE)

    assert page.startswith(f"# {name}\n")
    assert shown
    for arguments in shown:
        command.make_context(name, shlex.split(arguments))  # raises on a flag that there is not
    known = {option for part in (command, train_command()) for param in part.params for option in param.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z_]+", page)) <= known | {"--help"}
    (line,) = re.findall(r"```json\n(.*)\n```", page)
    assert Conversation.from_line(line).to_line() == line + "\n"
    for target in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (ROOT / "docs" / "datasets" / target).exists(), target


def test_the_table_of_converters_is_in_the_readme() -> None:
    listed = README[README.index("**Converters**") :].partition("\n\n")[0]

    assert [name for name in CONVERTERS if f"`{name}`" not in listed] == []


def test_every_flag_that_the_page_on_scaling_names_exists() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    known = {option for param in train_command().params for option in param.opts}
    torchrun = "nnodes nproc_per_node node_rank master_addr master_port max shutdown_timeout"
    known |= {f"--{name}" for name in [*torchrun.split(), *(own.name for own in fields(TrainingArguments))]}

    assert set(re.findall(r"(?<![\w-])--[a-z0-9_]+", text)) <= known


def test_the_page_on_scaling_has_a_row_for_every_strategy_and_every_balance() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()

    for name in (
        "all weights, 1 GPU",
        "vision part frozen, 8 GPUs",
        "LoRA, 2 GPUs, DDP",
        "QLoRA, 1 GPU",
        "8 processes, 64",
    ):
        assert f"| {name}" in text, name
