"""DocVQA in every form that it is published in, against what was written there by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3v.converters import docvqa
from phi3v.converters.docvqa import Options
from phi3v.schema import UserError

QUESTION = {
    "questionId": 49153,
    "question": "What is the ‘actual’ value per 1000, during the year 1975?",  # noqa: RUF001  # as the annotations have it
    "question_types": ["figure/diagram"],
    "image": "documents/pybv0228_81.png",
    "docId": 14465,
    "ucsf_document_id": "pybv0228",
    "ucsf_document_page_no": "81",
    "answers": ["0.28", "0.28 "],
    "data_split": "val",
}


def question(number: int, page: str = "pybv0228_81", **more: Any) -> dict[str, Any]:
    document, _, leaf = page.partition("_")
    fields = {"questionId": number, "question": f"question {number}?", "image": f"documents/{page}.png"}
    return {**QUESTION, **fields, "ucsf_document_id": document, "ucsf_document_page_no": leaf, **more}


@pytest.fixture
def source(tmp_path: Path, picture: Callable[..., bytes]) -> Callable[..., Path]:
    """Write the official folder: annotations by file name, and the pages that they name."""

    def write(pages: str = "documents", **documents: list[dict[str, Any]]) -> Path:
        folder = tmp_path / "source"
        (folder / pages).mkdir(parents=True, exist_ok=True)
        for name, items in documents.items():
            split = name.partition("_")[0]
            content = {"dataset_name": "SP-DocVQA", "dataset_version": "1.0", "dataset_split": split, "data": items}
            (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            for number, item in enumerate(items):
                (folder / pages / Path(item["image"]).name).write_bytes(picture(number))
        return folder

    return write


# -------------------------------------------------------------------------------------------------------- JSON


def test_a_question_with_every_accepted_answer(source: Callable[..., Path], converted: Callable[..., Any]) -> None:
    done = converted("docvqa", Options(src_dir=source(**{"val_v1.0_withQT": [QUESTION]})))

    (record,) = done.records["val"]
    assert record["conversations"] == [
        {
            "images": ["val/pybv0228_81.png"],
            "user": "What is the ‘actual’ value per 1000, during the year 1975?\nAnswer briefly.",  # noqa: RUF001  # as the annotations have it
            "assistant": "0.28",
            "answers": ["0.28", "0.28 "],
        }
    ]
    assert record["metadata"] == {
        "question_id": 49153,
        "question_types": ["figure/diagram"],
        "doc_id": 14465,
        "page": "81",
        "group": "pybv0228",
    }


@pytest.mark.parametrize("pages", ["documents", "spdocvqa_images", "."])
def test_pages_lie_where_the_archives_put_them(
    source: Callable[..., Path], converted: Callable[..., Any], pages: str
) -> None:
    done = converted("docvqa", Options(src_dir=source(pages, **{"train_v1.0": [question(1)]})))

    assert (done.folder / "images/train/pybv0228_81.png").is_file()


def test_of_two_annotation_files_the_one_with_question_types_is_read(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    plain = {key: value for key, value in question(1).items() if key != "question_types"}
    folder = source(**{"val_v1.0": [plain], "val_v1.0_withQT": [question(1)], "train_v1.0": [question(2)]})

    done = converted("docvqa", Options(src_dir=folder))

    assert [record["metadata"]["question_types"] for record in done.records["val"]] == [["figure/diagram"]]
    assert len(done.records["train"]) == 1


def test_the_annotations_may_lie_in_a_folder_of_their_own(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    folder = source("spdocvqa_images", **{"val_v1.0": [question(1)]})
    (folder / "spdocvqa_qas").mkdir()
    (folder / "val_v1.0.json").rename(folder / "spdocvqa_qas/val_v1.0_withQT.json")

    assert len(converted("docvqa", Options(src_dir=folder)).records["val"]) == 1


def test_a_bare_list_tells_the_split_by_its_items(source: Callable[..., Path], converted: Callable[..., Any]) -> None:
    folder = source(**{"val_v1.0": [question(1)]})
    (folder / "mine.json").write_text(json.dumps([question(1, data_split="train"), question(2, data_split="val")]))

    done = converted("docvqa", Options(src_dir=folder / "mine.json"))

    assert {split: len(records) for split, records in done.records.items()} == {"train": 1, "val": 1}


def test_the_unlabelled_test_gives_records_to_predict(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    items = [{key: value for key, value in question(n).items() if key != "answers"} for n in (1, 2)]

    for turns in ("question", "page"):
        done = converted("docvqa", Options(src_dir=source(**{"test_v1.0": items}), turns=turns))  # type: ignore[arg-type]

        assert done.turns("test") == [("question 1?\nAnswer briefly.", None), ("question 2?\nAnswer briefly.", None)]


def test_a_page_with_its_questions_as_turns_brings_its_picture_once(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    items = [question(1, "aaaa0001_1"), question(2, "bbbb0002_1"), question(3, "aaaa0001_1")]

    done = converted("docvqa", Options(src_dir=source(**{"train_v1.0": items}), turns="page"))

    first, second = done.records["train"]
    assert [turn["user"].split("?")[0] for turn in first["conversations"]] == ["question 1", "question 3"]
    assert [turn.get("images") for turn in first["conversations"]] == [["train/aaaa0001_1.png"], None]
    assert first["metadata"]["question_id"] == [1, 3]
    assert first["metadata"]["group"] == "aaaa0001"
    assert second["conversations"][0]["user"].startswith("question 2")


# ----------------------------------------------------------------------------------------------------- hub forms


def shown(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": None}


@pytest.mark.parametrize("number", ["3", 3])
def test_parquet_with_the_official_columns(
    tmp_path: Path, picture: Callable[..., bytes], write_parquet: Callable[..., Path], converted: Callable[..., Any],
    number: Any,
) -> None:  # fmt: skip
    """lmms-lab has question ids as texts, HuggingFaceM4 as numbers."""
    row = {key: value for key, value in QUESTION.items() if key != "data_split"}
    rows = [{**row, "questionId": number, "image": shown(picture(5))}]
    write_parquet(tmp_path / "DocVQA/validation-00000-of-00001.parquet", rows)

    done = converted("docvqa", Options(src_dir=tmp_path / "DocVQA"))

    (record,) = done.records["val"]
    assert record["conversations"][0]["answers"] == ["0.28", "0.28 "]
    assert record["metadata"]["question_id"] == number
    assert (done.folder / "images/val/pybv0228_81.png").read_bytes() == picture(5)


def test_parquet_of_nielsr_asks_in_english(
    tmp_path: Path, picture: Callable[..., bytes], write_parquet: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    for split, count in (("train", 5), ("test", 2)):
        rows = [
            {
                "id": f"{split}_{number}",
                "image": shown(picture(number)),
                "query": {"de": "Wie?", "en": f"How {number}?", "es": "¿Cómo?"},
                "answers": ["so", "thus"],
                "words": ["a"],
                "bounding_boxes": [[0.5, 1.0]],
                "answer": {"matched_text": "so"},
            }
            for number in range(count)
        ]
        write_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet", rows)

    done = converted("docvqa", Options(src_dir=tmp_path / "data"))

    assert [user for user, _ in done.turns("test")] == ["How 0?\nAnswer briefly.", "How 1?\nAnswer briefly."]
    assert len(done.records["train"]) == 5
    assert done.records["train"][4]["metadata"] == {"question_id": "train_4"}
    assert (done.folder / "images/train/000004.png").read_bytes() == picture(4)


@pytest.mark.parametrize(("turns", "records"), [("question", 8), ("page", 4)])
def test_parquet_of_the_cauldron_keeps_its_prompts(
    tmp_path: Path, picture: Callable[..., bytes], write_parquet: Callable[..., Path], converted: Callable[..., Any],
    turns: Any, records: int,
) -> None:  # fmt: skip
    for shard in (0, 1):
        rows = [
            {
                "images": [shown(picture(2 * shard + page))],
                "texts": [
                    {"user": f"{shard}{page}{n}?\nBe brief.", "assistant": f"{n}.", "source": "DocVQA"} for n in "ab"
                ],
            }
            for page in (0, 1)
        ]
        write_parquet(tmp_path / f"docvqa/train-0000{shard}-of-00002.parquet", rows)

    done = converted("docvqa", Options(src_dir=tmp_path / "docvqa", turns=turns))

    assert len(done.records["train"]) == records
    assert [user for user, _ in done.turns("train")] == [
        f"{shard}{page}{n}?\nBe brief." for shard in "01" for page in "01" for n in "ab"
    ]
    pictures = sorted((done.folder / "images/train").iterdir())
    assert [path.read_bytes() for path in pictures] == [picture(number) for number in range(4)]


# --------------------------------------------------------------------------------------------------------- prompts


def test_a_prompt_of_ones_own_and_a_choice_that_is_the_same_again(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    items = [question(number) for number in range(20)]
    folder = source(**{"train_v1.0": items})
    options = Options(src_dir=folder, prompt=("Say: {question}", "{question} {{short}}"))

    one, other = converted("docvqa", options), converted("docvqa", options)
    fewer = converted("docvqa", Options(src_dir=source(**{"train_v1.0": items[7:]}), prompt=options.prompt))

    chosen = [record["metadata"]["prompt"] for record in one.records["train"]]
    assert set(chosen) == {0, 1}
    assert one.records == other.records
    for number, (user, _) in enumerate(one.turns("train")):
        expected = (f"Say: question {number}?", f"question {number}? {{short}}")
        assert user == expected[chosen[number]]
    assert [record["metadata"]["prompt"] for record in fewer.records["train"]] == chosen[7:], "others move nothing"


# ------------------------------------------------------------------------------------------------------- bad input


def test_bad_questions_cost_themselves_and_name_item_value_and_remedy(
    source: Callable[..., Path], converted: Callable[..., Any]
) -> None:
    bad: list[Any] = [
        question(2, question=None),
        question(3, answers="one"),
        question(4, image="documents/gone.png"),
        question(1),
        question(6, image="../../etc/passwd"),
    ]
    folder = source(**{"train_v1.0": [question(1), *bad, question(9)]})
    (folder / "documents/gone.png").unlink()
    path = folder / "train_v1.0.json"
    path.write_text(path.read_text().replace('"data": [', '"data": [7, '))

    done = converted("docvqa", Options(src_dir=folder), on_error="skip")

    assert [record["metadata"]["question_id"] for record in done.records["train"]] == [1, 9]
    found = [(reason, message.split("\n")[0].removeprefix("train_v1.0.json:")) for reason, message in done.rejected]
    assert found == [
        ("wrong-shape", "data[0]: a row is an object, not 7"),
        ("wrong-field", "data[2]: 'question' is a text, not None"),
        ("wrong-field", "data[3]: 'answers' is a list of texts, not 'one'"),
        ("missing-image", "data[4]: picture 'documents/gone.png' is not there"),
        ("duplicate-question", "data[5]: question id 1 is also that of train_v1.0.json:data[1]"),
        ("unsafe-path", "data[6]: picture '../../etc/passwd' leads out of the image folder"),
    ]
    assert all("fix: " in message for _, message in done.rejected)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('{"data": [\n  {"a": 1},\n  {"b" 2}\n]}', ":3:8", "not JSON"),
        ('{"questions": []}', "", "an object with 'questions', not a list of questions"),
        ("7", "", "7, not a list of questions"),
    ],
)
def test_an_annotation_file_that_is_none_names_line_and_column(
    tmp_path: Path, text: str, where: str, what: str
) -> None:
    path = tmp_path / "train_v1.0.json"
    path.write_text(text)

    with pytest.raises(UserError) as caught:
        list(docvqa.plan(Options(src_dir=tmp_path)))

    assert str(caught.value.where) == f"{path}{where}"
    assert what in caught.value.what


def test_a_folder_without_annotations_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no annotations of DocVQA here\n.*train_v1.0.json"):
        list(docvqa.plan(Options(src_dir=tmp_path)))


def test_parquet_of_another_form_names_its_columns(tmp_path: Path, write_parquet: Callable[..., Path]) -> None:
    write_parquet(tmp_path / "train.parquet", [{"colour": "red", "size": 3}])

    with pytest.raises(UserError, match=r"not known, with the columns colour, size"):
        list(docvqa.plan(Options(src_dir=tmp_path)))


# -------------------------------------------------------------------------------------------------------- real data


def test_real_pages_and_questions(shared: Path, converted: Callable[..., Any]) -> None:
    """12 real questions on three real pages, copied byte for byte."""
    source = shared / "realdata/docvqa"
    items = json.loads((source / "val_v1.0.json").read_text())["data"]

    done = converted("docvqa", Options(src_dir=source))
    pages = converted("docvqa", Options(src_dir=source, turns="page"))

    assert done.turns("val") == [(f"{item['question']}\nAnswer briefly.", item["answers"][0]) for item in items]
    assert [record["conversations"][0]["answers"] for record in done.records["val"]] == [i["answers"] for i in items]
    for page in (source / "documents").iterdir():
        assert (done.folder / "images/val" / page.name).read_bytes() == page.read_bytes()
    assert sorted(pages.turns("val")) == sorted(done.turns("val"))
    assert len(pages.records["val"]) == len({item["image"] for item in items})
