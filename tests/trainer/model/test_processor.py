from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from phi3v.trainer.model import Phi3VProcessor
from phi3v.trainer.model.tiny import tiny_processor


@pytest.fixture(scope="module")
def processor() -> Phi3VProcessor:
    return tiny_processor()


def picture(width: int = 100, height: int = 100) -> Image.Image:
    return Image.new("RGB", (width, height))


def test_each_chunk_has_its_own_beginning(processor: Phi3VProcessor) -> None:
    """k tags give k + 1 of them, and an empty chunk gives a lone one."""
    made = processor("<|user|>\n<|image_1|><|image_2|>\nQ", [picture(), picture()])

    ids = made["input_ids"][0].tolist()
    begin = processor.tokenizer.bos_token_id
    assert ids.count(begin) == 3
    count = processor.image_processor.token_count(100, 100)
    first = ids.index(-1)
    assert ids[first : first + 2 * count + 2] == [-1] * count + [begin] + [-2] * count + [begin]
    assert made["attention_mask"].tolist() == [[1] * len(ids)]


def test_text_alone(processor: Phi3VProcessor) -> None:
    made = processor("<|user|>\nQ<|end|>\n")

    assert set(made) == {"input_ids", "attention_mask"}
    assert made["input_ids"][0, 0] == processor.tokenizer.bos_token_id


def test_images_take_the_order_of_their_tags(processor: Phi3VProcessor) -> None:
    made = processor("<|image_2|><|image_1|>", [picture(400, 100), picture(100, 400)])

    assert made["image_sizes"].tolist() == [[1344, 336], [336, 1344]]


@pytest.mark.parametrize(
    ("text", "count"),
    [("Q", 1), ("<|image_1|>", 0), ("<|image_1|><|image_1|>", 2), ("<|image_2|>", 1), ("<|image_0|>", 1)],
)
def test_tags_that_do_not_fit_the_images_are_refused(processor: Phi3VProcessor, text: str, count: int) -> None:
    with pytest.raises(ValueError, match="tag each of them once"):
        processor(text, [picture()] * count)


def test_it_saves_and_loads_by_its_name_alone(processor: Phi3VProcessor, tmp_path: Path) -> None:
    processor.image_processor.num_crops = 3
    processor.save_pretrained(tmp_path)
    processor.image_processor.num_crops = 4

    loaded = AutoProcessor.from_pretrained(tmp_path)

    assert type(loaded) is Phi3VProcessor
    assert loaded.image_processor.num_crops == 3
    assert loaded.end_ids == processor.end_ids
    text = "<|user|>\nWas ist das? 这 🚤<|end|>\n<|assistant|>\nein Boot<|end|>\n<|endoftext|>"
    assert loaded(text)["input_ids"].tolist() == processor(text)["input_ids"].tolist()


def test_the_released_files_load_without_remote_code(shared: Path) -> None:
    loaded = AutoProcessor.from_pretrained(shared / "realdata/tokenizers/phi35_vision")

    assert type(loaded) is Phi3VProcessor
    assert loaded.image_processor.num_crops == 4
    assert loaded.end_ids == [32000, 32007]
    assert loaded.text_ids("<|user|>\n") == [1, 32010, 29871, 13]
    assert loaded.text_ids("<|assistant|>\nYes<|end|>\n<|endoftext|>") == [1, 32001, 3869, 32007, 29871, 13, 32000]


def test_the_small_tokenizer_treats_white_space_as_the_released_one(processor: Phi3VProcessor, shared: Path) -> None:
    released = Phi3VProcessor.from_pretrained(shared / "realdata/tokenizers/phi35_vision")
    for text in ("<|user|>\nyes<|end|>\n<|assistant|>\nno", "<|assistant|>   no", "</s>  a", "<|end|>\n\n", "a  b\n c"):
        pieces = [[own.tokenizer.decode([token]) for token in own.text_ids(text)] for own in (processor, released)]
        assert "".join(pieces[0]) == "".join(pieces[1])


def test_the_chat_template_writes_what_the_released_one_writes(processor: Phi3VProcessor, shared: Path) -> None:
    released = Phi3VProcessor.from_pretrained(shared / "realdata/tokenizers/phi35_vision")
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]

    for messages in (chat, [*chat, {"role": "assistant", "content": "A"}]):
        texts = {
            own.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for own in (processor, released)
        }
        assert len(texts) == 1


def test_any_text_survives_the_small_tokenizer(processor: Phi3VProcessor) -> None:
    for text in ("Grüße 这 🚤\t\x00", "a  b   c", "0123456789", "ﬁ ½"):
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_small_tokenizer_is_what_its_script_makes(fixtures: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("make_tokenizer", fixtures / "tokenizer" / "make_tokenizer.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    assert script.TARGET.read_text(encoding="utf-8") == script.train()


def test_tensors_go_straight_into_the_model(processor: Phi3VProcessor) -> None:
    from phi3v.trainer.model.tiny import tiny_model

    output = tiny_model(processor)(**processor("<|image_1|>\nQ", picture(), num_crops=1))

    assert output.logits.shape[1] == 313 + len(processor.text_ids("")) + len(processor.text_ids("\nQ"))
    assert torch.isfinite(output.logits).all()
