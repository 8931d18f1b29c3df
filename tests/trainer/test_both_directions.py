"""A record without a finding encodes, and one with a finding is refused by the encoder, which calls no check.

Outside the rule: duplicate ids, missing files, length, pictures that no model can take.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from phi3v.schema import Conversation, Finding, RecordError, check
from phi3v.trainer.encode import Encoder
from phi3v.trainer.model.tiny import tiny_processor

NAMES = ("a.png", "b/c.png", "b/../a.png", "/a.png", "./a.png", "b//c.png", "a.png/", "b\\c.png", "..", "")
WORDS = (
    "Q",
    "",
    " ",
    "<|image_1|>",
    "<|image_2|>",
    "<|image_3|>",
    "<|image_0|>",
    "<|end|>",
    "</s>",
    "<|image|>",
    "ä\u2028",
    "\u3000",
    "one of the following classes: A, B",
)
TEXT = st.lists(st.sampled_from(WORDS), max_size=3).map("".join)
MOSTLY_TEXT = st.one_of(TEXT, TEXT, TEXT, st.sampled_from([None, 1, [], {}]))
TURN = st.fixed_dictionaries(
    {"user": MOSTLY_TEXT},
    optional={
        "assistant": MOSTLY_TEXT,
        "images": st.lists(st.sampled_from(NAMES[:2] * 4 + NAMES), max_size=3) | st.just("a.png"),
        "answers": st.lists(MOSTLY_TEXT, max_size=2),
        "image": st.just("a.png"),
    },
)
RECORD = st.fixed_dictionaries(
    {"id": MOSTLY_TEXT, "source": st.just("s"), "conversations": st.lists(TURN, max_size=3)},
    optional={"system": MOSTLY_TEXT, "metadata": st.sampled_from([{}, {"x": [1]}, [], None])},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("both")
    (made / "images" / "b").mkdir(parents=True)
    for name in NAMES[:2]:
        Image.new("RGB", (20, 20)).save(made / "images" / name)
    return made


def errors(path: Path) -> list[Finding]:
    """What makes a record unusable: a warning is none of the encoder's business."""
    return [finding for finding in check(path) if finding.severity == "error"]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(record=RECORD, repeated=st.integers(0, 9))
def test_no_finding_means_that_it_encodes_and_the_other_way_round(
    folder: Path, record: dict[str, Any], repeated: int
) -> None:
    line = json.dumps(record, ensure_ascii=False)
    # Now and then a key that stands twice: at the start of the record, of a turn, or of the metadata.
    starts = [found.end() for found in re.finditer(r"\{", line)]
    if repeated < len(starts):
        at = starts[repeated]
        line = f'{line[:at]}"user": "Q", "user": "Q"{", " * (line[at] != "}")}{line[at:]}'
    (folder / "a.jsonl").write_text(line + "\n")
    encoder = Encoder(tiny_processor_once(), folder / "images")

    fine = not errors(folder / "a.jsonl")

    try:
        read = Conversation.from_line(line)
        encoder(read, answered=read.turns[-1].assistant is not None)
        accepted = True
    except RecordError:
        accepted = False
    assert accepted == fine


PROCESSORS = []


def tiny_processor_once() -> Any:
    if not PROCESSORS:
        PROCESSORS.append(tiny_processor())
        PROCESSORS[0].image_processor.num_crops = 1
    return PROCESSORS[0]


@settings(max_examples=200, deadline=None)
@given(record=RECORD)
def test_a_record_with_every_answer_also_trains(folder: Path, record: dict[str, Any]) -> None:
    for turn in record["conversations"]:
        turn["assistant"] = "A"
    line = json.dumps(record, ensure_ascii=False)
    (folder / "b.jsonl").write_text(line + "\n")
    if errors(folder / "b.jsonl"):
        return

    example = Encoder(tiny_processor_once(), folder / "images")(Conversation.from_line(line))

    assert any(label != -100 for label in example.labels)
