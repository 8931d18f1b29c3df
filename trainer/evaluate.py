"""Generate an answer to each record: greedily, in batches of like length.

Rows of a batch are padded on the left, so that each goes on at the last position; the model masks the padding and
counts positions without it, so that an answer does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LogitsProcessor, LogitsProcessorList

from phi3v.schema import Conversation, RecordError, UserError
from phi3v.trainer.collate import collate
from phi3v.trainer.data import Records, changed
from phi3v.trainer.encode import Encoder, Example
from phi3v.trainer.fit import encode
from phi3v.trainer.model import Phi3VProcessor
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.questions import Ask, Question
from phi3v.trainer.scoring import Prediction


class Choice(NamedTuple):
    """First tokens of the positive answer, and of the others: what a probability is taken among."""

    positive: tuple[int, ...]
    others: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How answers are generated.

    Attributes:
        max_new_tokens: where an answer that does not end is cut.
        choice: by source, what a probability is taken among.
        with_loss: also the loss of the answer that would have been right.
    """

    max_new_tokens: int
    choice: dict[str, Choice]
    with_loss: bool = False


class Answer(NamedTuple):
    """What was generated: the text, its tokens with the end, the scores of each id at the first token (V,)."""

    text: str
    tokens: int
    first: Tensor


class Asked(NamedTuple):
    """A record and how it is encoded, its answer included if it has one."""

    record: Conversation
    example: Example


class Reader:
    """Reads and encodes the records that are asked.

    Args:
        records: all of them.
        encoder: as in training.
    """

    def __init__(self, records: Records, encoder: Encoder) -> None:
        self._records = records
        self._encoder = encoder

    def __call__(self, question: Question) -> Asked:
        """Read a record and its images.

        Raises:
            UserError: an image cannot be read, or the file has changed since it was checked.
        """
        record = self._records[question.number]
        answered = record.turns[-1].assistant is not None
        try:
            example = encode(record, self._encoder, question.how, answered=answered)
        except RecordError as error:
            raise changed(error) from error
        return Asked(record, example)


def predict(
    model: nn.Module, processor: Phi3VProcessor, read: Reader, asks: Iterable[Ask], how: Generation
) -> Iterator[list[Prediction]]:
    """Yield the model's answers, a batch at a time; of a batch that is asked again an empty list.

    Args:
        model: in any mode; it is left in evaluation mode.
        processor: the model's.
        read: gives a question's record.
        asks: the batches.
        how: what is generated.
    """
    model.eval()
    for ask in asks:
        asked = [read(question) for question in ask.questions]
        answers = generate(model, processor, [prompt_of(own.example) for own in asked], how.max_new_tokens)
        losses = answer_losses(model, processor, [own.example for own in asked]) if how.with_loss else None
        made = [
            replace(
                _prediction(question, own, answer, how.choice.get(question.source)),
                loss=losses[place] if losses and labelled_tail(own.example) else None,
            )
            for place, (question, own, answer) in enumerate(zip(ask.questions, asked, answers, strict=True))
        ]
        yield [] if ask.again else made


def _prediction(question: Question, asked: Asked, answer: Answer, choice: Choice | None) -> Prediction:
    return Prediction(
        number=question.number,
        id=asked.record.id,
        source=asked.record.source,
        prompt=asked.record.turns[-1].user,
        text=answer.text,
        answers=asked.example.answers,
        tokens=answer.tokens,
        probability=probability(answer.first, choice) if choice else None,
        labelled=labelled_tail(asked.example),
        group=question.group,
    )


def labelled_tail(example: Example) -> int:
    """Return how many tokens the last answer has, its end included."""
    return sum(1 for _ in takewhile(lambda label: label != IGNORED, reversed(example.labels)))


def prompt_of(example: Example) -> Example:
    """Return an encoded record cut before its last answer: the ids of training, and no others."""
    end = len(example.input_ids) - labelled_tail(example)
    return replace(example, input_ids=example.input_ids[:end], labels=[IGNORED] * end)


@torch.no_grad()
def generate(
    model: nn.Module, processor: Phi3VProcessor, prompts: Sequence[Example], max_new_tokens: int, **options: Any
) -> list[Answer]:
    """Return the model's answers to a batch of prompts; `options` go to `generate` of transformers."""
    pad_id = processor.tokenizer.pad_token_id
    batch = collate(prompts, pad_id=pad_id, side="left")
    del batch["labels"]
    device = next(model.parameters()).device
    first = _FirstScores()
    write: Any = model.generate  # nn.Module does not know it, and an adapter has it by delegation
    written = write(
        **{name: tensor.to(device) for name, tensor in batch.items()},
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=processor.end_ids,
        pad_token_id=pad_id,
        logits_processor=LogitsProcessorList([first]),
        **options,
    )
    answers = written[:, batch["input_ids"].shape[1] :]  # the prompt holds negative ids, which cannot be decoded
    texts: list[str] = processor.tokenizer.batch_decode(
        answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    ends = torch.isin(answers, torch.tensor(processor.end_ids, device=answers.device))
    lengths = torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, answers.shape[1]).tolist()
    assert first.scores is not None, "at least one token is generated"
    return [Answer(*own) for own in zip(texts, lengths, first.scores.float().cpu(), strict=True)]


class _FirstScores(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Keeps the scores of the first token, and changes none."""

    def __init__(self) -> None:
        self.scores: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        if self.scores is None:
            self.scores = scores
        return scores


def probability(first: Tensor, choice: Choice) -> float:
    """Return the probability of the positive answer, of its first token among those of all answers in the data."""
    shares = first[[*choice.positive, *choice.others]].double().softmax(dim=0)
    return float(shares[: len(choice.positive)].sum())


@torch.no_grad()
def answer_losses(model: nn.Module, processor: Phi3VProcessor, examples: Sequence[Example]) -> list[float]:
    """Return the loss of each last answer, summed over its tokens; 0 for a record without one."""
    longest = max(labelled_tail(example) for example in examples)
    if not longest:
        return [0.0] * len(examples)
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


def choices(processor: Phi3VProcessor, answers: dict[str, str], positive: str) -> Choice:
    """Return the first tokens of the positive answer and of the others.

    Args:
        processor: the model's.
        answers: all there are, by their normal form.
        positive: the normal form of the one.

    Raises:
        UserError: they begin with the same token: at the first token they cannot be told apart.
    """

    def starts(texts: Iterable[str]) -> set[int]:
        return {processor.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in texts}

    own = starts([answers[positive]])
    others = starts(text for normal, text in answers.items() if normal != positive)
    if own & others:
        what = f"{answers[positive]!r} begins with the same token as another answer: it has no probability of its own"
        raise UserError(what, fix="rename the answers, or take --metric accuracy")
    return Choice(tuple(sorted(own)), tuple(sorted(others)))
