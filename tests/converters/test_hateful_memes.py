"""Hateful Memes: both phases, ids however they are spelled, unlabelled tests, the_cauldron's form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters import hateful_memes
from phi3v.converters.hateful_memes import Options
from phi3v.converters.recipe_prompts import HATEFUL_MEMES
from phi3v.schema import UserError


def meme(number: int, **more: Any) -> dict[str, Any]:
    """A row as the phase 2 archive has it: the id is an int, the picture's name has five digits."""
    return {"id": number, "img": f"img/{number:05}.png", "label": number % 2, "text": f"text {number}", **more}


@pytest.fixture
def source(tmp_path: Path, picture: Callable[..., bytes], write_lines: Callable[..., Path]) -> Callable[..., Path]:
    """Write annotation files by name, and the memes that they name."""

    def write(folder: str = "", **files: list[dict[str, Any]]) -> Path:
        root = tmp_path / "source" / folder
        (root / "img").mkdir(parents=True, exist_ok=True)
        for name, rows in files.items():
            write_lines(root / f"{name}.jsonl", *rows)
            for row in rows:
                (root / row["img"]).write_bytes(picture(int(row["id"])))
        return tmp_path / "source"

    return write


@pytest.mark.parametrize("number", [8291, "08291"])
def test_a_meme_is_known_by_its_picture_however_the_id_is_spelled(
    source: Callable[..., Path], converted: Callable[..., Any], number: Any
) -> None:
    row = meme(8291, id=number)

    (record,) = converted("hateful_memes", Options(src_dir=source(train=[row]))).records["train"]

    (turn,) = record["conversations"]
    assert turn["images"] == ["train/08291.png"]
    assert turn["user"] in HATEFUL_MEMES
    assert turn["assistant"] == "Yes."
    prompt = HATEFUL_MEMES.index(turn["user"])
    assert record["metadata"] == {
        "meme": "08291",
        "file": "train",
        "text": "text 8291",
        "label": 1,
        "prompt": prompt,
    }


def test_every_prompt_of_the_recipe_comes_and_the_same_for_the_same_meme(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    folder = source(train=[meme(number) for number in range(80)])

    first = converted("hateful_memes", Options(src_dir=folder))
    again = converted("hateful_memes", Options(src_dir=folder))
    other = converted("hateful_memes", Options(src_dir=folder, seed=1))

    assert {user for user, _ in first.turns("train")} == set(HATEFUL_MEMES)
    assert len(HATEFUL_MEMES) == 11
    assert first.records == again.records
    assert first.turns("train") != other.turns("train")


def test_the_text_of_the_meme_is_given_to_the_model_only_when_asked(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    folder = source(train=[meme(1)])

    ((without, _),) = converted("hateful_memes", Options(src_dir=folder)).turns("train")
    ((with_text, _),) = converted("hateful_memes", Options(src_dir=folder, with_text=True)).turns("train")
    ((own, _),) = converted("hateful_memes", Options(src_dir=folder, prompt=("{text}: hate?",))).turns("train")

    assert "text 1" not in without
    assert with_text == f'The text of this meme: "text 1"\n{without}'
    assert own == "text 1: hate?"


def test_phase_one_has_an_unlabelled_test(source: Callable[..., Path], converted: Callable[..., Any]) -> None:
    secret = {key: value for key, value in meme(3).items() if key != "label"}

    done = converted("hateful_memes", Options(src_dir=source("data", train=[meme(1)], dev=[meme(2)], test=[secret])))

    assert {split: len(records) for split, records in done.records.items()} == {"train": 1, "val": 1, "test": 1}
    assert done.turns("test")[0][1] is None
    assert "label" not in done.records["test"][0]["metadata"]


def test_phase_two_takes_a_meme_of_both_dev_files_once(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    folder = source(
        train=[meme(1)],
        dev_seen=[meme(2), meme(3)],
        dev_unseen=[meme(3), meme(4)],
        test_seen=[meme(5)],
        test_unseen=[meme(6)],
    )

    done = converted("hateful_memes", Options(src_dir=folder))

    seen = [(record["metadata"]["meme"], record["metadata"]["file"]) for record in done.records["val"]]
    assert seen == [("00002", "dev_seen"), ("00003", "dev_seen"), ("00004", "dev_unseen")]
    assert [record["metadata"]["file"] for record in done.records["test"]] == ["test_seen", "test_unseen"]
    assert done.manifest["rejected"]["count"] == 0
    assert done.manifest["recipe"] == {
        "equal": False,
        "differences": [
            "--recipe_splits was not given",
            "the data were given as --src_dir, not fetched",
            "records {'train': 1, 'val': 3, 'test': 2}, not {'train': 8000, 'val': 500}",
        ],
    }


def test_files_of_both_phases_need_a_word(source: Callable[..., Path], converted: Callable[..., Any]) -> None:
    folder = source(train=[meme(1)], dev=[meme(2)], dev_seen=[meme(3)])

    with pytest.raises(UserError, match=r"files of both phases.*\n.*--phase 1 or --phase 2"):
        list(hateful_memes.plan(Options(src_dir=folder)))
    assert len(converted("hateful_memes", Options(src_dir=folder, phase="1")).records["val"]) == 1


def test_bad_memes_cost_themselves_and_name_line_value_and_remedy(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    rows = [meme(1), meme(2, label=2), meme(3, label="hateful"), meme(4), meme(1), meme(6, label=True)]
    folder = source(train=rows)
    (folder / "img/00004.png").unlink()
    path = folder / "train.jsonl"
    path.write_text('\ufeff{"id": 5, "img": \n' + path.read_text() + '\n[]\n{"id": 9, "img": ["a"], "label": 0}\n')

    done = converted("hateful_memes", Options(src_dir=folder), on_error="skip")

    assert [record["metadata"]["label"] for record in done.records["train"]] == [1, 1]
    found = [(reason, message.split("\n")[0]) for reason, message in done.rejected]
    assert found == [
        ("not-json", "train.jsonl:1:18: Expecting value"),
        ("unknown-label", "train.jsonl:3: label 2, not 0 or 1"),
        ("missing-image", "train.jsonl:5: picture 'img/00004.png' is not there"),
        ("duplicate-question", "train.jsonl:6: picture 'img/00001.png' is also that of train.jsonl:2"),
        ("unknown-label", "train.jsonl:7: label True, not 0 or 1"),
        ("wrong-shape", "train.jsonl:9: a row is an object, not []"),
        ("wrong-field", "train.jsonl:10: 'img' is a text, not ['a']"),
    ]


def test_an_annotation_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no annotations of Hateful Memes here\n.*train.jsonl and img/"):
        list(hateful_memes.plan(Options(src_dir=tmp_path)))


def test_pictures_that_are_still_packed_are_told(tmp_path: Path, write_lines: Callable[..., Path]) -> None:
    write_lines(tmp_path / "train.jsonl", meme(1))
    (tmp_path / "img.tar.gz").write_bytes(b"")

    with pytest.raises(UserError, match="still packed\n.*tar -xzf"):
        hateful_memes.plan(Options(src_dir=tmp_path))


@pytest.fixture
def cauldron(tmp_path: Path, picture: Callable[..., bytes], write_parquet: Callable[..., Path]) -> Path:
    """520 rows in two shards, as the_cauldron has them."""
    for shard in (0, 1):
        rows = [
            {
                "images": [{"bytes": picture(number % 7), "path": None}],
                "texts": [
                    {
                        "user": f"Is meme {260 * shard + number} rude?\nAnswer yes or no.",
                        "assistant": ("No.", "Yes.")[number % 2],
                        "source": "Hateful Memes",
                    }
                ],
            }
            for number in range(260)
        ]
        write_parquet(tmp_path / f"hateful_memes/train-0000{shard}-of-00002.parquet", rows)
    return tmp_path / "hateful_memes"


def test_the_first_500_rows_of_the_cauldron_are_what_the_recipe_scores(
    cauldron: Path, converted: Callable[..., Any]
) -> None:
    done = converted("hateful_memes", Options(src_dir=cauldron, recipe_splits=True))
    published = converted("hateful_memes", Options(src_dir=cauldron))

    assert done.turns("val")[0] == ("Is meme 0 rude?\nAnswer yes or no.", "No.")
    assert [user for user, _ in done.turns("train")] == [
        f"Is meme {number} rude?\nAnswer yes or no." for number in range(500, 520)
    ]
    assert len(done.records["val"]) == 500
    assert [record["metadata"]["label"] for record in done.records["train"]] == [0, 1] * 10
    assert published.turns("train") == done.turns("val") + done.turns("train")


def test_the_cauldron_has_no_text_of_the_memes(cauldron: Path) -> None:
    for options in (Options(src_dir=cauldron, with_text=True), Options(src_dir=cauldron, prompt=("{text}?",))):
        with pytest.raises(UserError, match="the_cauldron has no text of the memes"):
            list(hateful_memes.plan(options))


def test_recipe_splits_are_about_the_cauldron(source: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="--recipe_splits splits the_cauldron's rows"):
        list(hateful_memes.plan(Options(src_dir=source(train=[meme(1)]), recipe_splits=True)))


def test_real_rows_with_harmless_pictures(shared: Path, converted: Callable[..., Any]) -> None:
    done = converted("hateful_memes", Options(src_dir=shared / "realdata/memes"))

    assert [record["metadata"]["meme"] for record in done.records["train"]] == [f"0000{n}" for n in range(1, 8)]
    assert {answer for _, answer in done.turns("train")} == {"No."}
