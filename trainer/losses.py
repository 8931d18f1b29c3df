"""The loss of the answer that would have been right: by the whole record, or on from its prompt's keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from phi3v.trainer.collate import collate
from phi3v.trainer.encode import Example
from phi3v.trainer.model import Phi3VProcessor
from phi3v.trainer.model.cache import CACHE
from phi3v.trainer.model.modeling import IGNORED


def labelled_tail(example: Example) -> int:
    """Return how many tokens the last answer has, its end included."""
    return sum(1 for _ in takewhile(lambda label: label != IGNORED, reversed(example.labels)))


def prompt_of(example: Example) -> Example:
    """Return an encoded record cut before its last answer: the ids of training, and no others."""
    end = len(example.input_ids) - labelled_tail(example)
    return replace(example, input_ids=example.input_ids[:end], labels=[IGNORED] * end)


@torch.no_grad()
def answer_losses(model: nn.Module, processor: Phi3VProcessor, examples: Sequence[Example]) -> list[float]:
    """Return the loss of each last answer, summed over its tokens, by the whole record; 0 for one without."""
    longest = max(1, *(labelled_tail(example) for example in examples))
    batch = collate(examples, pad_id=processor.tokenizer.pad_token_id, side="left")
    device = next(model.parameters()).device
    labels = batch.pop("labels")[:, -longest:].to(device)
    for row, example in zip(labels, examples, strict=True):
        row[: longest - labelled_tail(example)] = IGNORED  # what a longer answer's columns show of earlier turns
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    logits = model(**inputs, logits_to_keep=longest + 1, use_cache=False).logits[:, :-1]
    losses = cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    summed: list[float] = losses.sum(dim=1).tolist()
    return summed


@torch.no_grad()
def losses_after(
    model: nn.Module, mask: Tensor, cache: DynamicCache, first: Tensor, examples: Sequence[Example]
) -> list[float]:
    """Return what `answer_losses` does, by the answers' tokens alone.

    Args:
        model: in evaluation mode.
        mask: of the prompts, (B, T).
        cache: the prompts' keys and values.
        first: scores at each answer's first token, (B, V).
        examples: the records, answers included.
    """
    tails = [example.input_ids[len(example.input_ids) - labelled_tail(example) :] for example in examples]
    # Two tokens go in at least: every process then runs a forward of the kind that the others run.
    longest = max(3, *map(len, tails))
    labels = torch.tensor([own + [IGNORED] * (longest - len(own)) for own in tails], device=mask.device)
    more = (labels[:, :-1] != IGNORED).to(mask.dtype)
    more[:, 0] = 1
    logits = model(
        input_ids=labels[:, :-1].clamp(min=0), attention_mask=torch.cat([mask, more], dim=1), **{CACHE: cache}
    ).logits
    logits = torch.cat([first[:, None].float(), logits.float()], dim=1)
    losses = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    summed: list[float] = losses.sum(dim=1).tolist()
    return summed


def crosses(model: nn.Module, examples: Sequence[Example], written: int) -> bool:
    """Return whether a row outgrows the short RoPE factors, so that its prompt's keys are not those of the answer."""
    config: Any = model.config
    limit: int = config.original_max_position_embeddings
    ends = ((len(prompt_of(own).input_ids), max(len(own.input_ids), written)) for own in examples)
    return any(prompt <= limit < max(whole, prompt + written) for prompt, whole in ends)
