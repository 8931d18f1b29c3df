from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import pytest
from PIL import Image

from phi3v.converters.registry import CONVERTERS, converter, names, summary
from phi3v.schema import UserError


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_built_in_converter_has_what_the_protocol_asks(name: str) -> None:
    module = converter(name)

    assert module.__doc__
    assert "Source:" in module.__doc__
    assert "Licence:" in module.__doc__
    assert module.SUMMARY
    assert module.MODULES
    assert dataclasses.is_dataclass(module.Options)
    hints = get_type_hints(module.Options, include_extras=True)
    assert all(get_origin(hint) is Annotated for hint in hints.values())
    assert callable(module.plan)
    assert callable(module.render)
    (src_dir,) = (field for field in dataclasses.fields(module.Options) if field.name == "src_dir")
    assert hasattr(module, "fetch") == (src_dir.default is None), "what cannot be fetched asks for a folder"


def test_a_misspelt_name_gets_a_hint() -> None:
    with pytest.raises(UserError, match="'ucf10'\n  fix: did you mean ucf101"):
        converter("ucf10")


def test_an_unknown_name_gets_the_list() -> None:
    with pytest.raises(UserError, match="choose one of: .*ucf101"):
        converter("imagenet")


# ---------------------------------------------------------------------------------------------------------- plug-ins


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a distribution with entry points on the path, as pip would."""

    def put(package: str, points: dict[str, str], **modules: str) -> None:
        folder = tmp_path / package
        info = folder / f"{package}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        lines = [f"{name} = {target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[phi3v.converters]", *lines]))
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(folder)

    return put


def test_a_plug_in_is_found_by_its_entry_point(faults: Any) -> None:
    assert converter("faults") is faults
    assert {"faults", "broken", "ucf101"} <= set(names())
    assert summary("faults") == "Files that fail on request"


def test_a_misspelt_plug_in_gets_a_hint_too(faults: Any) -> None:
    assert faults
    with pytest.raises(UserError, match="did you mean faults"):
        converter("fault")


@pytest.mark.usefixtures("faults")
def test_a_plug_in_that_cannot_be_imported_is_told_by_name_and_harms_no_other() -> None:
    with pytest.raises(UserError) as caught:
        converter("broken")

    assert caught.value.what.startswith("plug-in 'broken' of phi3v-faults cannot be imported (ModuleNotFoundError: ")
    assert caught.value.fix == "repair or uninstall phi3v-faults"
    assert summary("broken").startswith("cannot be used: plug-in 'broken' of phi3v-faults")
    assert converter("ucf101").SUMMARY


@pytest.mark.parametrize("text", ["raise SystemError('x')", "raise SystemExit(3)", "import", "1 / 0"])
def test_whatever_an_import_raises_is_told(install: Callable[..., None], text: str) -> None:
    install("worse", {"worse": "worse_module"}, worse_module=text)

    with pytest.raises(UserError, match="plug-in 'worse' of worse cannot be imported"):
        converter("worse")


def test_a_plug_in_that_is_no_converter_says_what_it_lacks(install: Callable[..., None]) -> None:
    install("half", {"half": "half_module"}, half_module="SUMMARY = 'x'\ndef plan(options): ...")

    with pytest.raises(UserError, match="plug-in 'half' of half is no converter: no MODULES, Options, render"):
        converter("half")


def test_a_built_in_converter_goes_before_a_plug_in_of_its_name(install: Callable[..., None]) -> None:
    install("thief", {"ucf101": "thief_module"}, thief_module="1 / 0")

    assert converter("ucf101").__name__ == "phi3v.converters.ucf101"  # type: ignore[attr-defined]


def test_help_lists_plug_ins_and_names_the_broken_one(
    run: Callable[..., Any], faults_environment: dict[str, str]
) -> None:
    done = run("phi3v-data", "convert", "--help", env={**faults_environment, "COLUMNS": "200"})

    assert done.returncode == 0, done.stderr
    assert re.search(r"faults +Files that fail on request", done.stdout)
    assert re.search(r"broken +cannot be used: plug-in 'broken' of phi3v-faults", done.stdout)
    assert re.search(r"ucf101 +UCF-101 action clips", done.stdout)


def test_a_plug_ins_options_are_in_its_help(run: Callable[..., Any], faults_environment: dict[str, str]) -> None:
    done = run("phi3v-data", "convert", "faults", "--help", env=faults_environment)

    for part in ("--same_name", "Pictures a record.", "--jobs", "--engine [local|ray]", "--on_error [fail|skip]"):
        assert part in done.stdout


@pytest.mark.install
@pytest.mark.slow
def test_the_example_plug_in_is_installed_and_converts(tmp_path: Path, fixtures: Path, run: Callable[..., Any]) -> None:
    """By pip, from its folder, into a place of its own."""
    shutil.copytree(fixtures / "plugin", tmp_path / "plugin")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", tmp_path / "plugin"],
        check=True,
        capture_output=True,
    )
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "pictures" / f"{name}.png")
        (tmp_path / "pictures" / f"{name}.txt").write_text(f"picture {name}")
    (tmp_path / "pictures/c.txt").unlink()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    listed = run("phi3v-data", "convert", "--help", env=environment)
    done = run(
        "phi3v-data", "convert", "captions", "--src_dir", tmp_path / "pictures", "--out_dir", tmp_path / "out",
        "--on_error", "skip", "--jobs", 2, env=environment,
    )  # fmt: skip
    validated = run("phi3v-data", "validate", tmp_path / "out", env=environment)

    assert re.search(r"captions +A folder of pictures with captions in text files", listed.stdout)
    assert done.returncode == 0, done.stderr
    assert "rejected: 1 (no-caption 1)" in done.stdout
    assert (validated.returncode, validated.stdout) == (0, "")
    lines = (tmp_path / "out/captions_train.jsonl").read_text().splitlines()
    assert [json.loads(line)["conversations"][0]["assistant"] for line in lines] == ["picture a", "picture b"]
