"""NLVR2: the official lines, and all 6,982 of the real dev annotations."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters import nlvr2
from phi3v.converters.nlvr2 import Options
from phi3v.converters.recipe_prompts import NLVR2
from phi3v.schema import UserError


def line(identifier: str, label: str | None = "True", **more: Any) -> dict[str, Any]:
    """A line with the fields that converting reads, and some that it does not."""
    fields = {"validation": {"61": label}, "sentence": f"Sentence of {identifier}.", "label": label, "writer": "61"}
    return {"identifier": identifier, **{key: value for key, value in fields.items() if value is not None}, **more}


@pytest.fixture
def source(tmp_path: Path, picture: Callable[..., bytes], write_lines: Callable[..., Path]) -> Callable[..., Path]:
    """Write lines into files below data/, and the pictures, JPEG data called .png, into images/."""

    def write(files: dict[str, list[dict[str, Any]]], *, flat: bool = False) -> Path:
        for name, rows in files.items():
            write_lines(tmp_path / "data" / f"{name}.json", *rows)
            for row in rows:
                split = row["identifier"].split("-")[0]
                below = f"{split}/{row['directory']}" if "directory" in row else split
                folder = tmp_path / "images" / ("" if flat else below)
                folder.mkdir(parents=True, exist_ok=True)
                for side in (0, 1):
                    name_of_pair = row["identifier"].rpartition("-")[0]
                    (folder / f"{name_of_pair}-img{side}.png").write_bytes(picture(side, form="JPEG"))
        return tmp_path

    return write


def test_a_sentence_about_the_left_and_the_right_picture(
    source: Callable[..., Path], converted: Callable[..., Any], picture: Callable[..., bytes]
) -> None:
    folder = source({"dev": [line("dev-850-2-1", "False", left_url="https://example.org/a.jpg", synset="bottle")]})

    done = converted("nlvr2", Options(src_dir=folder))

    (record,) = done.records["val"]
    (turn,) = record["conversations"]
    assert turn["images"] == ["val/dev-850-2-img0.jpg", "val/dev-850-2-img1.jpg"]
    assert [(done.folder / "images" / name).read_bytes() for name in turn["images"]] == [
        picture(side, form="JPEG") for side in (0, 1)
    ]
    assert turn["assistant"] == "No."
    assert turn["user"] == NLVR2[record["metadata"]["prompt"]].replace("{caption}", "Sentence of dev-850-2-1.")
    assert turn["user"].startswith("The first image is the image on the left, the second image is the image on the ri")
    assert record["metadata"]["group"] == "dev-850"
    assert record["metadata"]["left_url"] == "https://example.org/a.jpg"
    assert record["metadata"]["label"] == "False"


@pytest.mark.parametrize("flat", [True, False])
def test_training_pictures_lie_in_numbered_folders(
    source: Callable[..., Path], converted: Callable[..., Any], flat: bool
) -> None:
    folder = source({"train": [line("train-10171-0-0", directory=52), line("train-4100-0-0", directory=7)]}, flat=flat)

    done = converted("nlvr2", Options(src_dir=folder))

    assert [record["metadata"]["directory"] for record in done.records["train"]] == [52, 7]


def test_sentences_of_a_pair_are_records_or_turns(source: Callable[..., Path], converted: Callable[..., Any]) -> None:
    folder = source({"dev": [line("dev-1-0-0"), line("dev-2-0-0"), line("dev-1-0-1", "False")]})

    sentences = converted("nlvr2", Options(src_dir=folder))
    pairs = converted("nlvr2", Options(src_dir=folder, turns="pair"))

    assert [len(record["conversations"]) for record in sentences.records["val"]] == [1, 1, 1]
    first, second = pairs.records["val"]
    assert [turn["assistant"] for turn in first["conversations"]] == ["Yes.", "No."]
    assert [len(turn.get("images", ())) for turn in first["conversations"]] == [2, 0]
    assert first["metadata"]["identifier"] == ["dev-1-0-0", "dev-1-0-1"]
    assert first["metadata"]["group"] == "dev-1"
    assert second["metadata"]["identifier"] == "dev-2-0-0"
    assert sorted(pairs.turns("val")) == sorted(sentences.turns("val"))


def test_balanced_and_unbalanced_files_and_both_tests(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    folder = source(
        {
            "dev": [line("dev-1-0-0"), line("dev-1-1-0")],
            "test1": [line("test1-1-0-0")],
            "test2": [line("test2-1-0-0"), line("test2-1-0-1")],
            "balanced/balanced_dev": [line("dev-1-0-0")],
            "unbalanced/unbalanced_dev": [line("dev-1-1-0")],
        }
    )

    def taken(**options: Any) -> dict[str, list[str]]:
        records = converted("nlvr2", Options(src_dir=folder, **options)).records
        return {split: [one["metadata"]["identifier"] for one in found] for split, found in records.items()}

    assert taken() == {"val": ["dev-1-0-0", "dev-1-1-0"], "test": ["test1-1-0-0"]}
    assert taken(subset="balanced") == {"val": ["dev-1-0-0"]}
    assert taken(subset="unbalanced") == {"val": ["dev-1-1-0"]}
    assert taken(test="test2")["test"] == ["test2-1-0-0", "test2-1-0-1"]


def test_identifiers_tell_the_split_whatever_the_file_is_called(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    folder = source({"mine": [line("train-1-0-0"), line("dev-1-0-0"), line("test1-1-0-0", None)]})

    done = converted("nlvr2", Options(src_dir=folder / "data/mine.json", image_dir=folder / "images"))

    assert {split: len(records) for split, records in done.records.items()} == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize("label", [["True"], {"a": 1}, True])
def test_a_label_that_is_no_text_costs_its_line(
    source: Callable[..., Path], converted: Callable[..., Any], label: Any
) -> None:
    folder = source({"dev": [line("dev-1-0-0"), line("dev-1-0-1", label)]})

    done = converted("nlvr2", Options(src_dir=folder), on_error="skip")

    assert len(done.records["val"]) == 1
    assert [reason for reason, _ in done.rejected] == ["unknown-label"]


def test_bad_lines_cost_themselves_and_name_line_value_and_remedy(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    good = line("dev-1-0-0")
    folder = source({"dev": [good, line("dev-1-0-1", "true"), line("dev-2-0-0"), good, line("dev-3-0-0", None)]})
    (folder / "images/dev/dev-2-0-img1.png").unlink()
    path = folder / "data/dev.json"
    path.write_text(path.read_text() + json.dumps({**good, "identifier": "dev-1"}) + '\n{"a": NaN}\n')

    done = converted("nlvr2", Options(src_dir=folder), on_error="skip")

    assert [record["metadata"]["identifier"] for record in done.records["val"]] == ["dev-1-0-0"]
    found = [(reason, message.split("\n")[0].removeprefix("data/dev.json:")) for reason, message in done.rejected]
    assert found == [
        ("unknown-label", "2: label 'true', not 'True' or 'False'"),
        ("missing-image", "3: not there: dev-2-0-img1.png"),
        ("duplicate-question", "4: identifier 'dev-1-0-0' is also that of data/dev.json:1"),
        ("no-answer", "5: no answer, without which a val record teaches and scores nothing"),
        ("wrong-field", "6: 'identifier' is split-set-pair-sentence, such as 'dev-850-0-1', not 'dev-1'"),
        ("not-json", "7:7: NaN is not JSON"),
    ]


def test_a_test_without_labels_can_be_predicted(source: Callable[..., Path], converted: Callable[..., Any]) -> None:
    done = converted(
        "nlvr2", Options(src_dir=source({"test1": [line("test1-1-0-0", None), line("test1-1-0-1", None)]}))
    )

    assert [answer for _, answer in done.turns("test")] == [None, None]


def test_no_annotations_say_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no annotations of NLVR2 \(all\)\n.*data/dev.json"):
        list(nlvr2.plan(Options(src_dir=tmp_path)))
    with pytest.raises(UserError, match="no such annotation file"):
        list(nlvr2.plan(Options(src_dir=tmp_path / "absent.json")))


@pytest.fixture
def cauldron(tmp_path: Path, picture: Callable[..., bytes], write_parquet: Callable[..., Path]) -> Path:
    """505 pairs of two sentences each, as the_cauldron has them."""
    rows = [
        {
            "images": [{"bytes": picture(number % 5), "path": None}, {"bytes": picture(9), "path": None}],
            "texts": [
                {"user": f"Is {number}{n} so? Answer yes or no.", "assistant": answer, "source": "NLVR2"}
                for n, answer in (("a", "Yes."), ("b", "No."))
            ],
        }
        for number in range(505)
    ]
    write_parquet(tmp_path / "nlvr2/train-00000-of-00001.parquet", rows)
    return tmp_path / "nlvr2"


def test_of_rows_that_it_scores_the_recipe_reads_the_first_sentence(
    cauldron: Path, converted: Callable[..., Any]
) -> None:
    done = converted("nlvr2", Options(src_dir=cauldron, recipe_splits=True, turns="pair"))

    assert [user for user, _ in done.turns("val")] == [f"Is {n}a so? Answer yes or no." for n in range(500)]
    assert [user for user, _ in done.turns("train")] == [
        f"Is {n}{s} so? Answer yes or no." for n in range(500, 505) for s in "ab"
    ]
    assert [len(record["conversations"]) for record in done.records["train"]] == [2] * 5
    assert done.records["train"][0]["conversations"][0]["images"] == ["train/000500-0.png", "train/000500-1.png"]


def test_without_recipe_splits_every_sentence_of_the_cauldron_is_a_training_record(
    cauldron: Path, converted: Callable[..., Any]
) -> None:
    done = converted("nlvr2", Options(src_dir=cauldron))

    assert {split: len(records) for split, records in done.records.items()} == {"train": 1010}


def test_rows_of_the_cauldron_that_are_broken_cost_themselves(
    tmp_path: Path, picture: Callable[..., bytes], write_parquet: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    good = {"bytes": picture(1), "path": None}
    text = {"user": "So?", "assistant": "Yes.", "source": "NLVR2"}
    rows = [
        {"images": [good, good], "texts": [text]},
        {"images": [good], "texts": [text]},
        {"images": [good, {"bytes": None, "path": "x.png"}], "texts": [text]},
        {"images": [good, good], "texts": []},
        {"images": [good, good], "texts": [{**text, "assistant": "Maybe."}]},
        {"images": [good, good], "texts": [{**text, "user": " "}]},
        {"images": [good, {"bytes": picture(1, form="JPEG", size=(200, 200))[:-60], "path": None}], "texts": [text]},
    ]
    write_parquet(tmp_path / "train-00000-of-00001.parquet", rows)

    done = converted("nlvr2", Options(src_dir=tmp_path), on_error="skip")

    assert len(done.records["train"]) == 1
    assert [reason for reason, _ in done.rejected] == [
        "wrong-field", "no-image", "wrong-field", "unknown-label", "wrong-field", "damaged-image",
    ]  # fmt: skip
    assert all(f"row {number}" in message for number, (_, message) in enumerate(done.rejected, 1))


# ------------------------------------------------------------------------------------------------------- real data


def test_the_whole_real_dev_set_names_exactly_the_pictures_that_are_absent(
    shared: Path, converted: Callable[..., Any]
) -> None:
    """6,982 lines, of which the pictures of four pairs are at hand."""
    source = shared / "realdata/nlvr2"
    lines = [json.loads(text) for text in (source / "data/dev.json").read_text().splitlines()]
    there = {path.name for path in (source / "images/dev").iterdir()}

    done = converted("nlvr2", Options(src_dir=source), on_error="skip")

    def pictures(row: dict[str, Any]) -> set[str]:
        return {f"{row['identifier'].rpartition('-')[0]}-img{side}.png" for side in (0, 1)}

    expected = [
        (f"data/dev.json:{n}", pictures(row) - there) for n, row in enumerate(lines, 1) if pictures(row) - there
    ]
    named = [
        (message.split(": ")[0], set(re.findall(r"dev-\d+-\d-img[01]\.png", message.split("\n")[0])))
        for _, message in done.rejected
    ]
    assert len(lines) == 6982
    assert named == expected
    assert len(named) == 6974
    assert len(set().union(*(names for _, names in named))) == 8094, "of the 8,102 pictures of dev, all but 8"
    assert Counter(reason for reason, _ in done.rejected) == {"missing-image": 6974}
    assert [record["metadata"]["identifier"] for record in done.records["val"]] == [
        row["identifier"] for row in lines if pictures(row) <= there
    ]


def test_eight_real_lines_in_a_file_of_their_own(shared: Path, converted: Callable[..., Any]) -> None:
    source = shared / "realdata/nlvr2"
    lines = [json.loads(text) for text in (source / "tiny-dev.json").read_text().splitlines()]

    done = converted("nlvr2", Options(src_dir=source / "tiny-dev.json"))

    assert [answer for _, answer in done.turns("val")] == [{"True": "Yes.", "False": "No."}[r["label"]] for r in lines]
    assert all(row["sentence"] in user for row, (user, _) in zip(lines, done.turns("val"), strict=True))
