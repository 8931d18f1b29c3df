"""The `datasets` library as a source: Parquet repositories, loose pictures, JSON lines, classes, names of splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters import hub
from phi3v.converters.hub import Options
from phi3v.schema import UserError


@pytest.fixture
def cups(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """A repository as `push_to_hub` writes it: Parquet with features, train and validation."""
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "more": datasets.List(datasets.Image()),
            "question": {"en": datasets.Value("string"), "de": datasets.Value("string")},
            "label": datasets.ClassLabel(names=["cup", "bowl"]),
        }
    )
    for split, count in (("train", 5), ("validation", 2)):
        rows = {
            "image": [{"bytes": picture(n), "path": None} for n in range(count)],
            "more": [[{"bytes": picture(n + 50), "path": None}] for n in range(count)],
            "question": [{"en": f"What is {n}?", "de": "Was?"} for n in range(count)],
            "label": [n % 2 for n in range(count)],
        }
        made = datasets.Dataset.from_dict(rows, features=features)
        (tmp_path / "cups/data").mkdir(parents=True, exist_ok=True)
        made.to_parquet(tmp_path / f"cups/data/{split}-00000-of-00001.parquet")
    return tmp_path / "cups"


MAPPING: dict[str, Any] = {"user": ("{question.en}",), "assistant": "label", "image": ("image", "more")}


def test_a_parquet_repository(cups: Path, picture: Callable[..., bytes], converted: Callable[..., Any]) -> None:
    done = converted("hub", Options(src_dir=cups, **MAPPING))

    assert done.turns("train") == [(f"What is {n}?", ("cup", "bowl")[n % 2]) for n in range(5)]
    assert done.turns("val") == [("What is 0?", "cup"), ("What is 1?", "bowl")]
    names = done.records["train"][3]["conversations"][0]["images"]
    assert [(done.folder / "images" / name).read_bytes() for name in names] == [picture(3), picture(53)]


def test_splits_that_are_taken(cups: Path, converted: Callable[..., Any]) -> None:
    done = converted("hub", Options(src_dir=cups, take=("validation=train", "train=test"), **MAPPING))

    assert {split: len(records) for split, records in done.records.items()} == {"train": 2, "test": 5}
    with pytest.raises(UserError, match="no split 'dev'") as caught:
        list(hub.plan(Options(src_dir=cups, take=("dev",), **MAPPING)))
    assert caught.value.fix == "there are: train, validation"


def test_loose_pictures_in_class_folders(
    tmp_path: Path, picture: Callable[..., bytes], converted: Callable[..., Any]
) -> None:
    for number, label in enumerate(("cup", "bowl")):
        (tmp_path / "loose/train" / label).mkdir(parents=True)
        (tmp_path / "loose/train" / label / "1.png").write_bytes(picture(number))

    done = converted(
        "hub", Options(src_dir=tmp_path / "loose", user=("What is it?",), assistant="label", image=("image",))
    )

    assert sorted(answer or "" for _, answer in done.turns("train")) == ["bowl", "cup"]
    contents = {path.read_bytes() for path in (done.folder / "images").rglob("*.png")}
    assert contents == {picture(0), picture(1)}


def test_json_lines_with_paths(
    tmp_path: Path, picture: Callable[..., bytes], write_lines: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    rows = [{"q": f"{n}?", "a": n, "img": "pictures/1.png"} for n in range(3)]
    write_lines(tmp_path / "lines/train.jsonl", *rows)
    (tmp_path / "elsewhere/pictures").mkdir(parents=True)
    (tmp_path / "elsewhere/pictures/1.png").write_bytes(picture(1))
    options = Options(
        src_dir=tmp_path / "lines", image_dir=tmp_path / "elsewhere", user=("q",), assistant="a", image=("img",)
    )

    done = converted("hub", options)

    assert done.turns("train") == [("0?", "0"), ("1?", "1"), ("2?", "2")]


def test_a_wrong_column_gets_the_real_ones(cups: Path) -> None:
    with pytest.raises(UserError, match="--image names column 'img'") as caught:
        list(hub.plan(Options(src_dir=cups, user=("What?",), image=("img",))))

    assert "There are: image, label, more, question" in str(caught.value.fix)


def test_a_split_that_may_be_anything_needs_a_word(cups: Path) -> None:
    (cups / "data/validation-00000-of-00001.parquet").rename(cups / "data/holdout-00000-of-00001.parquet")
    (cups / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: data/train-*\n  - split: holdout\n    path: data/holdout-*\n---\n"
    )

    with pytest.raises(UserError, match="split 'holdout', which may be anything\n.*--take holdout=train"):
        list(hub.plan(Options(src_dir=cups, **MAPPING)))


def test_what_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(UserError) as caught:
        list(hub.plan(Options(src_dir=tmp_path / "empty", user=("What?",))))
    assert caught.value.fix
    with pytest.raises(UserError, match="no data set\n.*--dataset OWNER/NAME"):
        hub.fetch(Options(user=("What?",)), tmp_path)


def test_a_data_set_by_name_without_a_network(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("phi3v-data", "convert", "hub", "--dataset", "owner/name", "--user", "q", "--out_dir", tmp_path / "out")

    assert done.returncode == 2
    assert "owner/name" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
