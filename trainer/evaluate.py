"""Generate an answer to each record, and score them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phi3v.schema.jsonl import atomic_write
from phi3v.trainer.collate import collate
from phi3v.trainer.data import Examples
from phi3v.trainer.encode import Example
from phi3v.trainer.metrics import is_correct
from phi3v.trainer.model import Phi3VProcessor


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the model answered to one record, and what would have been right."""

    id: str
    text: str
    answers: tuple[str, ...]

    @property
    def correct(self) -> bool:
        """Whether it is one of the accepted answers."""
        return is_correct(self.text, self.answers)


def predict(
    model: nn.Module, processor: Phi3VProcessor, examples: Examples, *, batch_size: int, max_new_tokens: int
) -> Iterator[Prediction]:
    """Yield the model's answers in the order of the examples, greedily decoded.

    Args:
        model: in any mode; it is left in evaluation mode.
        processor: the model's.
        examples: prompts.
        batch_size: how many are answered at a time.
        max_new_tokens: where an answer that does not end is cut.
    """
    model.eval()
    for start in range(0, len(examples), batch_size):
        batch = [examples[index] for index in range(start, min(start + batch_size, len(examples)))]
        texts = generate(model, processor, batch, max_new_tokens=max_new_tokens)
        for example, text in zip(batch, texts, strict=True):
            yield Prediction(id=example.id, text=text, answers=example.answers)


@torch.no_grad()
def generate(
    model: nn.Module, processor: Phi3VProcessor, prompts: Sequence[Example], *, max_new_tokens: int
) -> list[str]:
    """Return the model's answers to a batch of prompts."""
    pad_id = processor.tokenizer.pad_token_id
    # Left padding: every row goes on at the batch's last position.
    batch = collate(prompts, pad_id=pad_id, side="left")
    del batch["labels"]
    device = next(model.parameters()).device
    write: Any = model.generate  # nn.Module does not know it, and an adapter has it by delegation
    written = write(
        **{name: tensor.to(device) for name, tensor in batch.items()},
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=processor.end_ids,
        pad_token_id=pad_id,
    )
    answers = written[:, batch["input_ids"].shape[1] :]  # the prompt holds negative ids, which cannot be decoded
    texts: list[str] = processor.tokenizer.batch_decode(
        answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


def accuracy(predictions: Sequence[Prediction]) -> float:
    """Return the share of right predictions; there must be one."""
    return sum(prediction.correct for prediction in predictions) / len(predictions)


def write_scores(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write accuracy, answers and generated texts under the original recipe's keys."""
    scores = {
        "accuracy": accuracy(predictions),
        "answers_unique": [{"id": own.id, "answer": own.answers[0]} for own in predictions],
        "generated_texts_unique": [{"id": own.id, "generated_text": own.text} for own in predictions],
    }
    with atomic_write(path) as file:
        file.write((json.dumps(scores, indent=2, ensure_ascii=False) + "\n").encode())
