"""The pre-commit hook, run by pre-commit as a user's repository does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.install
@pytest.mark.slow
def test_pre_commit_runs_the_hook_on_jsonl_files(tmp_path: Path) -> None:
    hook = tmp_path / "hook repository"
    git(tmp_path, "clone", "--quiet", str(ROOT), str(hook))
    # The working tree's files, so that the test is about this code and not about the last commit.
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (hook / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, hook / name)
    git(hook, "add", "-A")
    git(hook, "commit", "--quiet", "--allow-empty", "-m", "now")
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet")
    shutil.copy(ROOT / "fixtures/valid/two_records.jsonl", repository / "good.jsonl")
    shutil.copy(ROOT / "fixtures/invalid/json.cut_line.jsonl", repository / "bad.jsonl")
    (repository / "other.json").write_text("no concern of ours")
    git(repository, "add", "-A")
    environment = {**os.environ, "PRE_COMMIT_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "pre_commit", "try-repo", str(hook), "phi3v-validate", "--files"]

    good = subprocess.run(
        [*command, "good.jsonl", "other.json"],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    bad = subprocess.run(
        [*command, "good.jsonl", "bad.jsonl"],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert good.returncode == 0, good.stdout + good.stderr
    assert "Passed" in good.stdout
    assert bad.returncode == 1
    assert "bad.jsonl:2:61: json: " in bad.stdout
    assert "other.json" not in bad.stdout
