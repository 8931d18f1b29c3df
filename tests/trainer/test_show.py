from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from phi3v.schema import Conversation, Turn
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.encode import Encoder
from phi3v.trainer.model.tiny import tiny_processor
from phi3v.trainer.show import Sample, samples


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (336, 336)).save(tmp_path / "images/a.png")
    Image.new("RGB", (336, 336)).save(tmp_path / "images/b.png")
    turns = (
        Turn(user="Compare <|image_2|> with <|image_1|>.", assistant="Alike.", images=("a.png", "b.png")),
        Turn(user="Sure?", assistant="Yes."),
    )
    records = [Conversation(id=f"s-{number}", source="s", turns=turns, system="Be brief.") for number in range(5)]
    (tmp_path / "s_train.jsonl").write_text("".join(record.to_line() for record in records))
    return tmp_path


def shown(data: Path, count: int = 3, **options: Any) -> list[Sample]:
    return list(samples(TrainConfig(data_dir=data, model_name_or_path="tiny", num_crops=1, **options), count))


def test_spans_are_the_record_in_order(data: Path) -> None:
    first, *rest = shown(data)

    kinds = [span.kind for span in first.spans]
    assert kinds == ["read", "image", "read", "image", "read", "learned", "read", "learned"]
    assert [span.text for span in first.spans if span.kind == "image"] == ["<|image_2|>", "<|image_1|>"]
    assert [span.tokens for span in first.spans if span.kind == "image"] == [313, 313]
    learned = [span.text for span in first.spans if span.kind == "learned"]
    assert learned[0].startswith("Alike.<|end|>")
    assert learned[1].startswith("Yes.<|end|>")
    assert learned[1].endswith("<|endoftext|>")
    assert [sample.id for sample in (first, *rest)] == ["s-0", "s-1", "s-2"]


def test_spans_count_every_token(data: Path) -> None:
    (sample,) = shown(data, 1)
    record = Conversation.from_line((data / "s_train.jsonl").read_bytes().splitlines()[0])
    processor = tiny_processor()
    processor.image_processor.num_crops = 1

    example = Encoder(processor, data / "images")(record)

    assert sum(span.tokens for span in sample.spans) == len(example.input_ids)


def test_what_is_shown_is_what_fits(data: Path) -> None:
    (sample,) = shown(data, 1, max_length=100)

    assert "Compare" not in "".join(span.text for span in sample.spans)
    assert not [span for span in sample.spans if span.kind == "image"]
