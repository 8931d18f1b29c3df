from typing import Any

import pytest

from phi3v.schema.rules import breaches, doubts, is_listed


def record(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "a", "source": "s", "conversations": list(turns), **fields}


def turn(user: str, images: int = 0, assistant: str = "A") -> dict[str, Any]:
    return {"user": user, "assistant": assistant, "images": [f"{number}.jpg" for number in range(images)]}


@pytest.mark.parametrize(
    "turns",
    [
        [turn("Q", 3)],
        [turn("<|image_1|><|image_2|>Q", 2)],
        [turn("<|image_2|>Q<|image_1|>", 2)],
        [turn("<|image_2|>Q", 1), turn("<|image_1|>Q", 1)],  # a tag may name another turn's image
        [turn("Q", 1), turn("Q", 1)],
    ],
)
def test_tags_that_name_each_image_once_or_not_at_all(turns: list[dict[str, Any]]) -> None:
    assert list(breaches(record(*turns))) == []


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([turn("<|image_1|>Q")], "'<|image_1|>' but the record has 0 images"),
        ([turn("<|image_0|>Q", 1)], "'<|image_0|>' but the record has 1 image"),
        ([turn("<|image_1|><|image_1|>Q", 1)], "'<|image_1|>' stands twice"),
        ([turn("<|image_1|>Q", 2)], "image 2 of 2 has no tag, though others have one"),
        ([turn("<|image_1|>Q", 1), turn("Q", 1)], "image 2 of 2 has no tag, though others have one"),
    ],
)
def test_tags_that_do_not(turns: list[dict[str, Any]], message: str) -> None:
    found = list(breaches(record(*turns)))

    assert {breach.code for breach in found} == {"image-tag"}
    assert message in [breach.message for breach in found]


def test_only_the_last_answer_may_be_missing() -> None:
    opened = {"user": "Q"}

    assert list(breaches(record(turn("Q"), opened))) == []
    assert [breach.path for breach in breaches(record(opened, opened, turn("Q")))] == [
        ("conversations", 0),
        ("conversations", 1),
    ]


@pytest.mark.parametrize(
    "text", ["<|end|>", "a <s> b", "</s>", "<unk>", "<|placeholder17|>", "<|image|>", "<|system|>x"]
)
def test_control_tokens_are_found_in_every_text(text: str) -> None:
    full = record({"user": text, "assistant": text, "answers": [text, text]}, system=text)

    paths = [breach.path for breach in breaches(full)]

    assert len(paths) == 5
    assert ("system",) in paths


def test_metadata_is_free() -> None:
    assert list(breaches(record(turn("Q"), metadata={"text": "<|end|>"}))) == []


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        ("Which of the following classes: A, B?", "C", True),  # no list that is announced as one
        ("Name one of the following classes: A, B.", "B", True),
        ("Name one of the following classes: A, B.", "B.", False),
        ("Name one of the following classes: A, B", "C", False),
        ("Name one of the following animals: A, B, or C. Be brief.", "C", True),
        ("Name one of the following animals: A, B and C.\nBe brief, C, please.", "please", False),
        ("Name one of the following: A, B", "C", True),
        ("Name one of the following classes: A.", "C", True),  # one name is no list
        ("Name one of the following classes: New York, Rome", "New York", True),
    ],
)
def test_an_answer_outside_of_the_listed_classes(question: str, answer: str, right: bool) -> None:
    found = list(doubts(record({"user": question, "assistant": answer})))

    assert [breach.code for breach in found] == ([] if right else ["answer-not-listed"])
    assert is_listed(question, answer) is right


def test_an_answer_in_another_case_is_told_the_right_one() -> None:
    (breach,) = doubts(record({"user": "one of the following classes: Boat, Car.", "assistant": "car "}))

    assert breach.message == "'car ' is none of the classes that the question lists; 'Car' is"
    assert breach.path == ("conversations", 0, "assistant")


@pytest.mark.parametrize("text", [" ", "\n\t", "\u3000", "\x85"])
def test_blank_texts(text: str) -> None:
    paths = [breach.path[-1] for breach in breaches(record({"user": text, "assistant": text, "answers": [text]}))]

    assert paths == ["user", "assistant"]
