"""Tokens, against the trainer's own encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from phi3v.schema import Checker, Conversation, Limit, UserError
from phi3v.schema.lengths import chunks, count_at_most, count_exactly, crops_that_fit, tokenizer_count, total
from phi3v.trainer.encode import Encoder
from phi3v.trainer.model.processor import Phi3VProcessor
from phi3v.trainer.model.tiny import tiny_processor

SIZES = {"a.png": (20, 20), "b.png": (700, 300)}
TEXT = st.sampled_from(["What is this?", "\nTwo\n\nlines ", " blank first", "ä 这是什么", "<b> | |>", "A"])
TAGS = {1: "<|image_1|>", 2: "<|image_2|>"}


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """Records that obey all rules: tags for all images or none, the last answer open or not."""
    turns = [
        {
            "images": draw(st.lists(st.sampled_from(sorted(SIZES)), max_size=2)),
            "user": draw(TEXT),
            "assistant": draw(TEXT),
        }
        for _ in range(draw(st.integers(1, 3)))
    ]
    images = sum(len(turn["images"]) for turn in turns)
    if draw(st.booleans()):
        for number in range(1, images + 1):
            turn = draw(st.sampled_from(turns))
            at = draw(st.integers(0, len(turn["user"]))) if "<|" not in turn["user"] else 0
            turn["user"] = f"{turn['user'][:at]}<|image_{number}|>{turn['user'][at:]}"
    if draw(st.booleans()):
        del turns[-1]["assistant"]
    system = {"system": draw(TEXT)} if draw(st.booleans()) else {}
    return {"id": "a", "source": "s", **system, "conversations": turns}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in SIZES.items():
        Image.new("RGB", size).save(folder / name)
    return folder


def encoded(processor: Phi3VProcessor, folder: Path, record: dict[str, Any]) -> int:
    read = Conversation.from_line(json.dumps(record))
    return len(Encoder(processor, folder)(read, answered=read.turns[-1].assistant is not None).input_ids)


def counted(processor: Phi3VProcessor, record: dict[str, Any]) -> int:
    def count(text: str) -> int:
        return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    return total(count_exactly(record, count), sizes_of(record), processor.image_processor.num_crops)


def sizes_of(record: dict[str, Any]) -> list[tuple[int, int]]:
    return [SIZES[name] for turn in record["conversations"] for name in turn["images"]]


PROCESSOR = tiny_processor()


@cache
def released(folder: Path) -> tuple[Phi3VProcessor, Callable[[str], int]]:
    processor = Phi3VProcessor.from_pretrained(folder)
    processor.image_processor.num_crops = 1
    return processor, tokenizer_count(folder)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(record=records())
def test_the_count_is_the_encoders(pictures: Path, record: dict[str, Any]) -> None:
    PROCESSOR.image_processor.num_crops = 2

    assert counted(PROCESSOR, record) == encoded(PROCESSOR, pictures, record)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(record=records())
def test_the_count_of_the_released_tokenizer(shared: Path, pictures: Path, record: dict[str, Any]) -> None:
    """Without the real tokenizer beside the checkout this would have shown that its file alone counts as it does."""
    folder = shared / "realdata/tokenizers/phi35_vision"
    processor, count = released(folder)
    exact = count_exactly(record, count)

    assert total(exact, sizes_of(record), 1) == encoded(processor, pictures, record)
    # The template is counted without a tokenizer, too: what is left are the texts, and they have no more than bytes.
    empty = json.loads(json.dumps(record))
    rough = count_at_most(record)
    assert rough.template <= sum(exact) <= sum(rough)
    if not any("<|image" in turn["user"] for turn in empty["conversations"]):
        for turn in empty["conversations"]:
            turn["user"] = ""
            turn.update({"assistant": ""} if "assistant" in turn else {})
        empty.update({"system": ""} if "system" in empty else {})
        assert sum(count_exactly(empty, count)) == rough.template


def test_chunks_are_what_is_between_images_and_answers() -> None:
    record = {
        "system": "S",
        "conversations": [
            {"images": ["a", "b"], "user": "Q", "assistant": "A"},
            {"user": "R"},
        ],
    }

    assert list(chunks(record)) == [
        "<|system|>\nS<|end|>\n<|user|>\n",
        "\nQ<|end|>\n<|assistant|>\n",
        "A<|end|>\n",
        "<|user|>\nR<|end|>\n<|assistant|>\n",
    ]


@pytest.mark.parametrize(("most", "crops"), [(5_000, 15), (800, 8), (313, None), (314, 3)])
def test_the_most_crops_that_fit(most: int, crops: int | None) -> None:
    record = {"conversations": [{"images": ["a"], "user": "Q"}]}
    texts = count_at_most(record)._replace(template=1, text=0)

    assert crops_that_fit(texts, [(1000, 1000)], 16, most) == crops


def test_a_record_that_is_too_long_names_the_crops_that_fit(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (1000, 1000)).save(tmp_path / "images" / "a.png")
    path = tmp_path / "a.jsonl"
    record = {"id": "a", "source": "s", "conversations": [{"images": ["a.png"], "user": "Q", "assistant": "A"}]}
    path.write_text(json.dumps(record) + "\n")

    def found(most: int, **options: Any) -> list[tuple[str, str, str]]:
        limit = Limit(max_length=most, **options)
        return [(finding.code, finding.message, finding.fix) for finding in Checker(limit=limit).check(path)]

    (too_long,) = found(2_000)
    assert too_long == (
        "too-long",
        "2,524 tokens without its texts, more than 2,000, with 1 image at --num_crops 16",
        "--num_crops 15 fits",
    )
    assert found(100)[0][2] == "no --num_crops fits: take images or text out"
    assert found(2_524) == []
    assert found(2_527, byte_bound=True)[0][:2] == ("maybe-too-long", "up to 2,528 tokens, more than 2,527")
    assert found(2_528, byte_bound=True) == []
    with pytest.raises(UserError, match="no tokenizer.json in this folder\n  fix: point --tokenizer") as error:
        found(1, tokenizer=tmp_path)
    assert error.value.where == tmp_path
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is no tokenizer .*\n  fix: copy it from the model again") as error:
        found(1, tokenizer=tmp_path)
    assert error.value.where == tmp_path / "tokenizer.json"


def test_with_a_tokenizer_texts_count_exactly(tmp_path: Path, root: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((root / "trainer/model/tiny_tokenizer.json").read_bytes())
    path = tmp_path / "a.jsonl"
    record = {"id": "a", "source": "s", "conversations": [{"images": [], "user": "Which class?", "assistant": "A"}]}
    path.write_text(json.dumps(record) + "\n")
    tokens = encoded(PROCESSOR, tmp_path, record)

    def said(most: int) -> list[str]:
        checker = Checker(limit=Limit(max_length=most, tokenizer=tmp_path))
        return [str(finding).removeprefix(str(path)) for finding in checker.check(path)]

    assert said(tokens) == []
    message = f"{tokens} tokens, more than {tokens - 1}, without images"
    assert said(tokens - 1) == [f":1:45: too-long: /conversations: {message}"]
