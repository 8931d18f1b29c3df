"""From text with image tags, and pictures, to what the model takes.

Source: Phi3VProcessor in processing_phi3_v.py of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from phi3v.schema.tokens import IMAGE_TAG, crop_tokens, tag_number
from phi3v.trainer.model.image_processor import Phi3VImageProcessor


class Phi3VProcessor(ProcessorMixin):
    """The image processor and the tokenizer as one.

    Args:
        image_processor: cuts pictures.
        tokenizer: a fast tokenizer; the released one, or any with its special tokens.
        chat_template: the tokenizer's if None.
    """

    def __init__(
        self,
        image_processor: Phi3VImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
    ) -> None:
        own = getattr(tokenizer, "chat_template", None)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or own)
        self.image_processor: Phi3VImageProcessor
        self.tokenizer: PreTrainedTokenizerBase

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Write the processor's files, those of the released layout included."""
        self.tokenizer.init_kwargs.pop("auto_map", None)  # asks to run remote code
        saved = super().save_pretrained(save_directory, **kwargs)
        # Where, and under which name, programs other than transformers 5 look.
        self.image_processor.save_pretrained(save_directory)
        _name_for_others(Path(save_directory) / "tokenizer_config.json")
        return saved

    @property
    def end_ids(self) -> list[int]:
        """The ids at which generation stops: the end of the text and the end of a turn."""
        return list(self.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|end|>"]))

    def __call__(
        self,
        text: str,
        images: Image.Image | Sequence[Image.Image] | None = None,
        *,
        num_crops: int | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Encode one text with the pictures that its tags name.

        Args:
            text: with the tags `<|image_1|>` to `<|image_n|>`, each once, in any order.
            images: the n pictures; tag N is picture N.
            num_crops: instead of the image processor's own.
            return_tensors: `pt` only.

        Returns:
            input_ids, attention_mask: (1, T) int64; a token of image N is -N.
            pixel_values, crop_counts, image_sizes: as `Phi3VImageProcessor.preprocess` gives them, in the order of
                the tags; absent without pictures.

        Raises:
            ValueError: the tags are not 1..n each once, or a picture has no crops.
        """
        pictures = [images] if isinstance(images, Image.Image) else list(images or [])
        chunks = IMAGE_TAG.split(text)  # text, number, text, number, ... text
        order = [tag_number(number) for number in chunks[1::2]]
        if sorted(order) != list(range(1, len(pictures) + 1)):
            raise ValueError(f"the text names the images {order}, but {len(pictures)} are given: tag each of them once")
        # The model fills placeholders in the order of the pixels, so the pixels take the order of the tags.
        placed = [pictures[number - 1] for number in order]
        data: dict[str, Any] = {}
        counts = []
        if placed:
            data = dict(self.image_processor.preprocess(placed, num_crops=num_crops, return_tensors=return_tensors))
            counts = [crop_tokens(height, width) for height, width in data["image_sizes"].tolist()]
        ids = self.text_ids(chunks[0])
        for number, count, chunk in zip(order, counts, chunks[2::2], strict=True):
            ids += [-number] * count + self.text_ids(chunk)
        input_ids = torch.tensor([ids])
        return BatchFeature({"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), **data})

    def text_ids(self, chunk: str) -> list[int]:
        """Return the ids of a chunk of text between image tags: each has a BOS of its own, and so has an empty one."""
        return [self.tokenizer.bos_token_id, *self.tokenizer(chunk, add_special_tokens=False)["input_ids"]]


def _name_for_others(path: Path) -> None:
    """Give a saved tokenizer the class name that transformers 4 knows, too; 5 takes both for one class."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["tokenizer_class"] == "TokenizersBackend":
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
