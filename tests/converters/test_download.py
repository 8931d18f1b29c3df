"""Fetching from a hub of our own on loopback, in processes of their own: huggingface_hub reads its environment once."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The two answers of the hub that a download of one file needs."""

    content = b""
    seen: list[str] = []

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.seen.append(f"{self.command} {self.path}")
        if not self.path.endswith("/resolve/main/UCF101_subset.tar.gz") and REVISION not in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(self.content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(fixtures: Path, tmp_path: Path, serve: Callable[[type[BaseHTTPRequestHandler]], str]) -> str:
    archive = tmp_path / "hub.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for clip in ("train/BlueBouncing/v_BlueBouncing_g01_c01.avi", "test/RedSpinning/v_RedSpinning_g27_c01.avi"):
            tar.add(fixtures / "ucf101" / clip, f"UCF101_subset/{clip}")
    Hub.content = archive.read_bytes()
    Hub.seen = []
    return serve(Hub)


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **more}


def test_without_a_source_the_subset_is_fetched(run: Callable[..., Any], hub: str, tmp_path: Path) -> None:
    done = run(
        "phi3v-data", "convert", "ucf101", "--out_dir", tmp_path / "out", env=environment(tmp_path, HF_ENDPOINT=hub)
    )

    assert done.returncode == 0, done.stderr
    assert any("/datasets/sayakpaul/ucf101-subset/" in request for request in Hub.seen)
    assert (tmp_path / "out/ucf101_train.jsonl").read_text().startswith('{"id": "train-0000000000", "source": "ucf101"')
    assert (tmp_path / "out/ucf101_test.jsonl").read_text().startswith('{"id": "test-0000000001"')
    assert len(list((tmp_path / "out/images").rglob("*.jpg"))) == 16


@pytest.mark.parametrize(
    "more",
    [
        {"HF_HUB_OFFLINE": "1"},
        pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.slow),  # huggingface_hub tries five times
    ],
)
def test_offline_the_error_says_how_to_get_it_by_hand(
    run: Callable[..., Any], tmp_path: Path, more: dict[str, str]
) -> None:
    done = run("phi3v-data", "convert", "ucf101", "--out_dir", tmp_path / "out", env=environment(tmp_path, **more))

    assert done.returncode == 2
    assert ("error: cannot fetch UCF101_subset.tar.gz from the hub's sayakpaul/ucf101-subset") in done.stderr
    assert "fix: download UCF101_subset.tar.gz" in done.stderr
    assert "--src_dir" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
