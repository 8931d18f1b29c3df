"""What is fetched, from a hub of our own on loopback: `convert NAME --out_dir X` alone, `convert hub --dataset`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest

from phi3v.converters import docvqa, hateful_memes, nlvr2
from phi3v.schema import UserError

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """What the hub answers to a download of a data set's files: a listing of the repository, and each file."""

    files: ClassVar[dict[str, dict[str, bytes]]] = {}  # repository -> path -> content
    gated: ClassVar[set[str]] = set()
    sent: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        for repo, files in self.files.items():
            if self.path.partition("?")[0].partition("/revision/")[0] == f"/api/datasets/{repo}":
                self._send(json.dumps(self._listing(repo)).encode(), body=body)
                return
            if self.path.startswith(f"/api/datasets/{repo}/tree/"):
                self._send(json.dumps(self._tree(files)).encode(), body=body)
                return
            name = self.path.removeprefix(f"/datasets/{repo}/resolve/").partition("/")[2]
            if self.path.startswith(f"/datasets/{repo}/resolve/") and name in files:
                if repo in self.gated:
                    self.send_response(403)
                    self.send_header("X-Error-Code", "GatedRepo")
                    self.send_header("X-Error-Message", "Access is restricted")
                    self.end_headers()
                    return
                if body:
                    self.sent.append(f"{repo}/{name}")
                self._send(files[name], body=body)
                return
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")  # else it counts as a hub that cannot be reached
        self.end_headers()

    def _listing(self, repo: str) -> dict[str, Any]:
        names = [{"rfilename": name} for name in self.files[repo]]
        return {"id": repo, "sha": REVISION, "siblings": names, "private": False, "gated": False, "disabled": False} | {
            "downloads": 0, "likes": 0, "tags": [], "_id": "0", "author": repo.split("/", maxsplit=1)[0],
            "lastModified": "2024-01-01T00:00:00.000Z", "createdAt": "2024-01-01T00:00:00.000Z",
        }  # fmt: skip

    def _tree(self, files: dict[str, bytes]) -> list[dict[str, Any]]:
        """Return what lies in a folder of the repository, folders included."""
        if "recursive=true" in self.path:
            return [{"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40} for path in files]
        folder = self.path.partition("/tree/")[2].partition("?")[0].partition("/")[2]
        below = [name.removeprefix(f"{folder}/") for name in files if name.startswith(f"{folder}/" if folder else "")]
        found = []
        for name in dict.fromkeys(inner.split("/")[0] for inner in below):
            path = f"{folder}/{name}" if folder else name
            content = files.get(path)
            kind = {"type": "directory"} if content is None else {"type": "file", "size": len(content)}
            found.append({**kind, "path": path, "oid": "0" * 40})
        return found

    def _send(self, content: bytes, *, body: bool) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        wanted = self.headers.get("Range") if body else None
        self.send_response(206 if wanted else 200)
        if wanted:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            last = min(int(end), len(content) - 1) if end else len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            content = content[int(start) : last + 1]
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def cauldron_rows(picture: Callable[..., bytes], count: int, pictures: int, source: str) -> list[dict[str, Any]]:
    return [
        {
            "images": [{"bytes": picture(number % 9), "path": None}] * pictures,
            "texts": [{"user": f"Is {number} so?\nAnswer yes or no.", "assistant": "Yes.", "source": source}],
        }
        for number in range(count)
    ]


@pytest.fixture
def hub(
    tmp_path: Path,
    picture: Callable[..., bytes],
    write_parquet: Callable[..., Path],
    serve: Callable[[type[BaseHTTPRequestHandler]], str],
) -> str:
    """The two repositories that the recipe names, with other files beside."""

    def parquet(rows: list[dict[str, Any]]) -> bytes:
        return write_parquet(tmp_path / "hub.parquet", rows).read_bytes()

    def nielsr(split: str, count: int) -> bytes:
        shown = {"bytes": picture(1), "path": None}
        query = {"en": "How much?", "de": "Wie viel?"}
        return parquet([{"id": f"{split}_{n}", "image": shown, "query": query, "answers": ["1"]} for n in range(count)])

    Hub.gated, Hub.sent = set(), []
    Hub.files = {
        "nielsr/docvqa_1200_examples": {
            "README.md": b"# DocVQA",
            "data/train-00000-of-00001-aa.parquet": nielsr("train", 1000),
            "data/test-00000-of-00001-bb.parquet": nielsr("test", 200),
        },
        "HuggingFaceM4/the_cauldron": {
            "ai2d/train-00000-of-00001.parquet": b"not asked for",
            "docvqa/train-00000-of-00001.parquet": parquet(cauldron_rows(picture, 7, 1, "DocVQA")),
            "hateful_memes/train-00000-of-00002.parquet": parquet(cauldron_rows(picture, 1100, 1, "Hateful Memes")),
            "hateful_memes/train-00001-of-00002.parquet": parquet(cauldron_rows(picture, 20, 1, "Hateful Memes")),
            "nlvr2/train-00000-of-00001.parquet": parquet(cauldron_rows(picture, 510, 2, "NLVR2")),
        },
    }
    return serve(Hub)


@pytest.fixture
def fetched(run: Callable[..., Any], hub: str, tmp_path: Path) -> Callable[..., Any]:
    """Run `phi3v-data convert NAME ...` against the hub."""
    environment = {
        **os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_ENDPOINT": hub, "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip

    def convert(name: str, *flags: str) -> Any:
        return run("phi3v-data", "convert", name, "--out_dir", tmp_path / "out", "--jobs", 1, *flags, env=environment)

    return convert


def counts(folder: Path, name: str) -> dict[str, int]:
    return {path.stem.removeprefix(f"{name}_"): path.read_text().count("\n") for path in folder.glob(f"{name}_*.jsonl")}


@pytest.mark.slow
def test_docvqa_alone_fetches_what_the_recipe_trained_on(fetched: Callable[..., Any], tmp_path: Path) -> None:
    done = fetched("docvqa", "--recipe_splits")

    assert done.returncode == 0, done.stderr
    assert counts(tmp_path / "out", "docvqa") == {"train": 1000, "val": 200}
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["recipe"] == {"equal": True, "differences": []}
    assert [(part["repo"], part["revision"], part["split"]) for part in manifest["fetched"]] == [
        ("nielsr/docvqa_1200_examples", REVISION, "train"),
        ("nielsr/docvqa_1200_examples", REVISION, "val"),
    ]
    assert f"fetched: *train-*.parquet of nielsr/docvqa_1200_examples at {REVISION}, " in done.stdout
    assert "the recipe's data: yes" in done.stdout
    assert not any("README" in name for name in Hub.sent)


@pytest.mark.slow
def test_docvqa_full_trains_on_the_cauldron_and_scores_the_same_200(
    fetched: Callable[..., Any], tmp_path: Path
) -> None:
    done = fetched("docvqa", "--from", "full")

    assert done.returncode == 0, done.stderr
    assert counts(tmp_path / "out", "docvqa") == {"train": 7, "test": 200}
    lines = (tmp_path / "out/docvqa_train.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["conversations"][0]["user"] == "Is 0 so?\nAnswer yes or no.", "no second prompt"
    assert '"How much?\\nAnswer briefly."' in (tmp_path / "out/docvqa_test.jsonl").read_text()
    assert "the recipe's data: no (--recipe_splits was not given)" in done.stdout
    assert sorted(Hub.sent) == [
        "HuggingFaceM4/the_cauldron/docvqa/train-00000-of-00001.parquet",
        "nielsr/docvqa_1200_examples/data/test-00000-of-00001-bb.parquet",
    ]


@pytest.mark.slow
def test_hateful_memes_and_nlvr2_fetch_the_cauldron(fetched: Callable[..., Any], tmp_path: Path) -> None:
    memes = fetched("hateful_memes", "--recipe_splits")
    assert memes.returncode == 0, memes.stderr
    assert counts(tmp_path / "out", "hateful_memes") == {"train": 620, "val": 500}
    differences = json.loads((tmp_path / "out/manifest.json").read_text())["recipe"]["differences"]
    assert differences == ["records {'train': 620, 'val': 500}, not {'train': 8000, 'val': 500}"]

    pairs = fetched("nlvr2", "--recipe_splits", "--turns", "pair", "--overwrite")
    assert pairs.returncode == 0, pairs.stderr
    assert counts(tmp_path / "out", "nlvr2") == {"train": 10, "val": 500}
    assert json.loads((tmp_path / "out/manifest.json").read_text())["recipe"]["equal"]


@pytest.mark.slow
def test_mini_takes_the_first_thousand_rows_of_the_first_file(fetched: Callable[..., Any], tmp_path: Path) -> None:
    done = fetched("hateful_memes", "--from", "mini")

    assert done.returncode == 0, done.stderr
    assert counts(tmp_path / "out", "hateful_memes") == {"train": 1000}
    assert Hub.sent == ["HuggingFaceM4/the_cauldron/hateful_memes/train-00000-of-00002.parquet"]
    assert "the first 1000 rows only" in done.stdout


@pytest.mark.slow
def test_a_gated_repository_says_where_to_apply(fetched: Callable[..., Any], tmp_path: Path, hub: str) -> None:
    Hub.gated = {"HuggingFaceM4/the_cauldron"}

    done = fetched("nlvr2")

    assert done.returncode == 2
    assert "error: the hub's HuggingFaceM4/the_cauldron is gated, and you are not let in" in done.stderr
    assert f"fix: apply at {hub}/datasets/HuggingFaceM4/the_cauldron" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_repository_that_lacks_the_files_says_so(fetched: Callable[..., Any]) -> None:
    del Hub.files["HuggingFaceM4/the_cauldron"]["nlvr2/train-00000-of-00001.parquet"]

    done = fetched("nlvr2")

    assert done.returncode == 2
    assert "error: the hub's HuggingFaceM4/the_cauldron has no nlvr2/*.parquet" in done.stderr
    assert "--src_dir" in done.stderr


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (docvqa, "register at https://rrc.cvc.uab.es/"),
        (hateful_memes, "accept Facebook's licence"),
        (nlvr2, "https://github.com/lil-lab/nlvr"),
    ],
)
def test_official_data_say_where_to_apply(module: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        module.fetch(module.Options(from_="official"), tmp_path)

    assert words in str(caught.value.fix)
    assert "--src_dir" in str(caught.value.fix)


def test_recipe_splits_of_docvqa_are_about_what_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--recipe_splits is about what is fetched"):
        list(docvqa.plan(docvqa.Options(src_dir=tmp_path, recipe_splits=True)))


@pytest.mark.slow
def test_a_data_set_by_its_name_is_streamed(
    fetched: Callable[..., Any], tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    Hub.files = {"owner/name": Hub.files["nielsr/docvqa_1200_examples"]}
    mapping = ("--user", "{query.en}", "--answers", "answers", "--image", "image", "--take", "test=val")

    done = fetched("hub", "--dataset", "owner/name", *mapping)

    assert done.returncode == 0, done.stderr
    assert counts(tmp_path / "out", "hub") == {"val": 200}
    assert (tmp_path / "out/images/val/test-000007-0.png").read_bytes() == picture(1)


@pytest.mark.slow
def test_pictures_that_are_files_of_the_hub_are_read_from_there(
    fetched: Callable[..., Any], tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    Hub.files = {"owner/loose": {f"train/{label}/{n}.png": picture(n) for n, label in enumerate(("cup", "bowl"))}}

    done = fetched(
        "hub", "--dataset", "owner/loose", "--user", "What is it?", "--assistant", "label", "--image", "image"
    )

    assert done.returncode == 0, done.stderr
    assert counts(tmp_path / "out", "hub") == {"train": 2}
    contents = {path.read_bytes() for path in (tmp_path / "out/images").rglob("*.png")}
    assert contents == {picture(0), picture(1)}
