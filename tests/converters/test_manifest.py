from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters import Run, convert
from phi3v.converters.card import card_text
from phi3v.converters.manifest import differences, read_manifest, settings_of, verify
from phi3v.schema import Conversation, Turn, UserError


@pytest.fixture
def out(faults: Any, write_texts: Callable[..., Path], tmp_path: Path) -> Path:
    source = write_texts(train_a="ok 1", train_b="bad", val_a="ok 2", val_ö="other")
    list(
        convert("faults", faults.Options(src_dir=source, images=1), out_dir=tmp_path / "out", run=Run(on_error="skip"))
    )
    return tmp_path / "out"


def test_the_manifest_tells_what_was_made_from_what(out: Path, tmp_path: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())

    assert manifest["settings"]["converter"] == "faults"
    assert manifest["settings"]["options"] == {"src_dir": str(tmp_path / "src"), "images": 1, "same_name": False}
    assert set(manifest["settings"]["versions"]) == {"phi3v", "pillow"}
    assert manifest["records"] == {"train": 1, "val": 2}
    assert manifest["classes"] == {"train": {"ok": 1}, "val": {"ok": 1, "other": 1}}
    assert manifest["rejected"] == {"count": 1, "reasons": {"says-bad": 1}}
    assert set(manifest["files"]) == {
        "README.md",
        "faults_train.jsonl",
        "faults_val.jsonl",
        "images.sha256",
        "rejected.jsonl",
        "sources.sha256",
    }


def test_the_checksums_are_those_of_another_program(out: Path, tmp_path: Path) -> None:
    for folder, sums, count in ((out, "images.sha256", 3), (tmp_path / "src", "sources.sha256", 3)):
        done = subprocess.run(["sha256sum", "-c", out / sums], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(": OK") == count
    manifest = read_manifest(out)["files"]
    lines = subprocess.run(["sha256sum", *manifest], cwd=out, capture_output=True, text=True, check=True).stdout
    assert lines == "".join(f"{entry['sha256']}  {name}\n" for name, entry in manifest.items())
    assert all((out / name).stat().st_size == entry["bytes"] for name, entry in manifest.items())


def test_a_folder_as_it_was_written_verifies(out: Path) -> None:
    assert list(verify(out)) == []


@pytest.mark.parametrize(
    "name", ["faults_train.jsonl", "README.md", "images.sha256", "rejected.jsonl", "images/val/val_ö.0.bin"]
)
@pytest.mark.parametrize("state", ["changed", "missing"])
def test_each_file_that_is_not_as_it_was_is_named(out: Path, name: str, state: str) -> None:
    if state == "missing":
        (out / name).unlink()
    else:
        content = bytearray((out / name).read_bytes())
        content[len(content) // 2] ^= 1
        (out / name).write_bytes(content)

    found = {(difference.state, difference.name) for difference in verify(out)}

    assert (state, name) in found
    if name != "images.sha256":  # without it, no image is known
        assert len(found) == 1


def test_extra_files_are_named(out: Path) -> None:
    for name in ("images/train/new.bin", ".hidden", "sub/new"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).touch()

    assert sorted((difference.state, difference.name) for difference in verify(out)) == [
        ("extra", ".hidden"),
        ("extra", "images/train/new.bin"),
        ("extra", "sub/new"),
    ]


def test_a_folder_without_a_manifest_is_told(tmp_path: Path, out: Path) -> None:
    with pytest.raises(UserError, match="no manifest.json here"):
        list(verify(tmp_path))
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match="not finished\n.*same convert command"):
        list(verify(out))
    (out / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="cannot read it"):
        list(verify(out))


def test_settings_differ_by_name_value_and_version(faults: Any) -> None:
    before = settings_of("faults", faults.Options(src_dir=Path("a")), ())
    now = settings_of("faults", faults.Options(src_dir=Path("b"), same_name=True), ())
    now["versions"]["phi3v"] = "9"

    assert differences(before, before) == []
    assert differences(before, now) == [
        "--same_name: False before, True now",
        "--src_dir: a before, b now",
        f"phi3v: {before['versions']['phi3v']} before, 9 now",
    ]


def load(folder: Path, home: Path, expression: str) -> Any:
    """Load a folder with `datasets`, in a process of its own: it reads its environment once."""
    pytest.importorskip("datasets")
    code = f"import datasets, json; found = datasets.load_dataset({str(folder)!r}); print(json.dumps({expression}))"
    environment = {**os.environ, "HF_HOME": str(home), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_card_lets_datasets_find_the_splits(out: Path, tmp_path: Path) -> None:
    rows = load(out, tmp_path / "hf", "{split: rows['id'][:] for split, rows in found.items()}")

    assert rows == {"train": ["train-0000000000"], "validation": ["val-0000000002", "val-0000000003"]}


def test_the_card_names_every_field_so_that_splits_may_differ_in_them(tmp_path: Path) -> None:
    whole = Conversation(
        id="a", source="demo", system="S", turns=(Turn(user="Q", assistant="A", answers=("A",), images=("a.png",)),),
        metadata={"page": 1},
    )  # fmt: skip
    bare = Conversation(id="b", source="demo", turns=(Turn(user="Q", assistant=None),))
    other = replace(whole, id="c", metadata={"page": "iv", "boxes": [[1, 2.5]]})
    for split, record in (("train", whole), ("val", other), ("test", bare)):
        (tmp_path / f"demo_{split}.jsonl").write_text(record.to_line())
    content = {"records": {"train": 1, "val": 1, "test": 1}, "rejected": {"count": 0}}
    (tmp_path / "README.md").write_text(card_text("demo", "About.", content))

    rows = load(tmp_path, tmp_path / "hf", "{split: rows[0] for split, rows in found.items()}")

    assert rows["train"] == json.loads(whole.to_line())
    assert rows["validation"]["metadata"] == {"page": "iv", "boxes": [[1, 2.5]]}
    assert rows["test"]["conversations"] == [{"user": "Q", "assistant": None, "images": None, "answers": None}]
