from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from phi3v.schema import Conversation, Turn, UserError
from phi3v.trainer.encode import Encoder
from phi3v.trainer.model import Phi3VProcessor
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.tiny import tiny_processor


@pytest.fixture(scope="module")
def processor() -> Phi3VProcessor:
    return tiny_processor()


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., str]:
    def make(name: str, size: tuple[int, int] = (320, 240), colour: int = 0) -> str:
        Image.new("RGB", size, (colour, 0, 0)).save(tmp_path / name)
        return name

    return make


def record(*turns: Turn) -> Conversation:
    return Conversation(id="r", source="s", turns=turns)


def test_labels_decode_to_exactly_the_answers(
    processor: Phi3VProcessor, picture: Callable[..., str], tmp_path: Path
) -> None:
    turns = (
        Turn(user="What is this?", assistant="A red boat, say 12.", images=(picture("a.png"),)),
        Turn(user="And this?", assistant="ein Höhlenbär"),
    )

    example = Encoder(processor, tmp_path)(record(*turns))

    learned = [token for token in example.labels if token != IGNORED]
    assert processor.tokenizer.decode(learned).split("<|end|>") == [
        "A red boat, say 12.",
        " \n ein Höhlenbär",  # a template's line feed is a space and a line feed to this kind of tokenizer
        " \n<|endoftext|>",
    ]
    assert all(label in (IGNORED, token) for label, token in zip(example.labels, example.input_ids, strict=True))
    assert example.answers == ("ein Höhlenbär",)


def test_the_ids_are_those_of_the_processor(
    processor: Phi3VProcessor, picture: Callable[..., str], tmp_path: Path
) -> None:
    names = (picture("a.png", (320, 240), 10), picture("b.png", (100, 400), 200))
    turns = (Turn(user="Which is it?", assistant="the second", images=names), Turn(user="Sure?", assistant="yes"))
    text = (
        "<|user|>\n<|image_1|><|image_2|>\nWhich is it?<|end|>\n<|assistant|>\nthe second<|end|>\n"
        "<|user|>\nSure?<|end|>\n<|assistant|>\nyes<|end|>\n<|endoftext|>"
    )

    example = Encoder(processor, tmp_path)(record(*turns))

    whole = processor(text, [Image.open(tmp_path / name) for name in names])
    assert example.input_ids == whole["input_ids"][0].tolist()
    assert example.images is not None
    for name, tensor in example.images.items():
        assert torch.equal(tensor, whole[name])


def test_a_prompt_has_the_ids_of_training_before_the_last_answer(
    processor: Phi3VProcessor, picture: Callable[..., str], tmp_path: Path
) -> None:
    turns = (Turn(user="One?", assistant="1", images=(picture("a.png"),)), Turn(user="Two?", assistant="2"))
    encoder = Encoder(processor, tmp_path)

    whole, prompt = encoder(record(*turns)), encoder(record(*turns), answered=False)

    cut = len(prompt.input_ids)
    assert prompt.input_ids == whole.input_ids[:cut]
    assert whole.labels[cut:] == whole.input_ids[cut:]
    assert whole.labels[cut - 1] == IGNORED


def test_images_follow_their_tags(processor: Phi3VProcessor, picture: Callable[..., str], tmp_path: Path) -> None:
    wide, tall = picture("wide.png", (600, 100)), picture("tall.png", (100, 600))
    turn = Turn(user="<|image_2|> and <|image_1|>", assistant="A", images=(wide, tall))

    example = Encoder(processor, tmp_path)(record(turn))

    assert example.images is not None
    assert example.images["image_sizes"].tolist() == [[1344, 336], [336, 1344]]
    assert next(token for token in example.input_ids if token < 0) == -2
    assert example.input_ids.count(-1) == processor.image_processor.token_count(600, 100)


def test_accepted_answers_are_kept(processor: Phi3VProcessor, tmp_path: Path) -> None:
    encoder = Encoder(processor, tmp_path)

    assert encoder(record(Turn(user="Q", assistant="A", answers=("A", "a")))).answers == ("A", "a")
    assert encoder(record(Turn(user="Q")), answered=False).answers == ()


def test_every_supervised_answer_ends_with_the_recipes_four_ids(shared: Path, tmp_path: Path) -> None:
    processor = Phi3VProcessor.from_pretrained(shared / "realdata/tokenizers/phi35_vision")

    example = Encoder(processor, tmp_path)(record(Turn(user="What is it?", assistant="BabyCrawling")))

    learned = [label for label in example.labels if label != IGNORED]
    assert learned == [26835, 29907, 1610, 1847, 32007, 29871, 13, 32000]
    assert example.input_ids[:4] == [1, 32010, 29871, 13]


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None])
def test_a_broken_image_is_named_with_its_record(
    processor: Phi3VProcessor, tmp_path: Path, content: bytes | None
) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2] if content is None else content)

    with pytest.raises(UserError, match=r"a\.jpg: cannot read this image of record 'r'"):
        Encoder(processor, tmp_path)(record(Turn(user="Q", assistant="A", images=("a.jpg",))))
