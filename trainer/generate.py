"""Generate an answer to each record: greedily, in batches of like length, reading one batch ahead.

Rows of a batch are padded on the left, so that each goes on at the last position; the model masks the padding and
counts positions without it, so that an answer does not depend on its neighbours. The loss of the right answer goes on
from the prompt's keys and values: pictures and prompt are computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from phi3v.schema import Conversation, RecordError, UserError
from phi3v.trainer.collate import collate
from phi3v.trainer.data import Policy, Records, changed
from phi3v.trainer.encode import Encoder, Example
from phi3v.trainer.fit import encode
from phi3v.trainer.losses import answer_losses, crosses, labelled_tail, losses_after, prompt_of
from phi3v.trainer.model import Phi3VProcessor
from phi3v.trainer.model.cache import CACHE, roomy_cache
from phi3v.trainer.model.distributed import is_divided, most_of_all
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.questions import Ask, Question
from phi3v.trainer.scoring import Prediction

READERS = 4  # threads: Pillow lets others run while it decodes and resizes


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
    """What was generated.

    Attributes:
        text: without special tokens.
        tokens: of the answer, its end included.
        first: the scores of each id at the first token, (V,).
        loss: of the answer that would have been right, summed over its tokens; None unless asked for.
    """

    text: str
    tokens: int
    first: Tensor
    loss: float | None = None


class Asked(NamedTuple):
    """A question, its record, and how that is encoded, its answer included if it has one; or why it is not."""

    question: Question
    record: Conversation
    example: Example | None
    error: str | None = None


class Reader:
    """Reads and encodes the records that are asked.

    Args:
        records: all of them.
        encoder: as in training.
        on_error: what to do with an image that cannot be read.
    """

    def __init__(self, records: Records, encoder: Encoder, on_error: Policy = "fail") -> None:
        self._records = records
        self._encoder = encoder
        self._on_error = on_error

    def __call__(self, question: Question) -> Asked:
        """Read a record and its images.

        Raises:
            UserError: an image cannot be read, and `on_error` is `fail`; or the file has changed since it was checked.
        """
        record = self._records[question.number]
        answered = record.turns[-1].assistant is not None
        try:
            return Asked(question, record, encode(record, self._encoder, question.how, answered=answered))
        except RecordError as error:
            raise changed(error) from error
        except UserError as error:
            if self._on_error == "fail":
                raise
            return Asked(question, record, None, str(error).splitlines()[0])


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
    for ask, asked in _read_ahead(asks, read):
        examples = [own.example for own in asked if own.example]
        # Every process runs as many forwards: one without a sample goes through an empty prompt.
        answers = iter(generate(model, processor, examples or [_nothing(processor)], how))
        made = [_prediction(own, next(answers) if own.example else None, how.choice) for own in asked]
        yield [] if ask.again else made


def _read_ahead(asks: Iterable[Ask], read: Reader) -> Iterator[tuple[Ask, list[Asked]]]:
    """Yield each batch with its records, which are read while the batch before is answered."""

    def read_by(coming: list[Future[Asked]]) -> list[Asked]:
        return [own.result() for own in coming]

    with ThreadPoolExecutor(READERS) as pool:
        before: tuple[Ask, list[Future[Asked]]] | None = None
        for ask in asks:
            coming = [pool.submit(read, question) for question in ask.questions]
            if before:
                yield before[0], read_by(before[1])
            before = ask, coming
        if before:
            yield before[0], read_by(before[1])


def _nothing(processor: Phi3VProcessor) -> Example:
    ids = [int(processor.tokenizer.bos_token_id)] * 2
    return Example(id="", input_ids=ids, labels=[IGNORED] * 2, images=None, answers=())


def _prediction(asked: Asked, answer: Answer | None, choices: dict[str, Choice]) -> Prediction:
    question, record, example = asked.question, asked.record, asked.example
    made = Prediction(
        number=question.number,
        id=record.id,
        source=record.source,
        prompt=record.turns[-1].user,
        answers=record.turns[-1].accepted,
        group=question.group,
        text="",
        error=asked.error,
    )
    if answer is None or example is None:
        return made
    choice, labelled = choices.get(question.source), labelled_tail(example)
    return replace(
        made,
        text=answer.text,
        tokens=answer.tokens,
        probability=probability(answer.first, choice) if choice else None,
        labelled=labelled,
        loss=answer.loss if labelled else None,
    )


@torch.no_grad()
def generate(
    model: nn.Module, processor: Phi3VProcessor, examples: Sequence[Example], how: Generation, **options: Any
) -> list[Answer]:
    """Return the model's answers to a batch of prompts.

    Args:
        model: in evaluation mode.
        processor: the model's.
        examples: the encoded records; an answer at their end is not shown to the model.
        how: what is generated.
        options: for `generate` of transformers.
    """
    pad_id = processor.tokenizer.pad_token_id
    batch = collate([prompt_of(example) for example in examples], pad_id=pad_id, side="left")
    del batch["labels"]
    device = next(model.parameters()).device
    prompt = {name: tensor.to(device) for name, tensor in batch.items()}
    whole: Any = model  # nn.Module knows nothing of generation; an adapter has it by delegation
    first, cache = _FirstScores(), roomy_cache(whole.config.num_hidden_layers)
    anew = _computed_anew(model, examples, how.max_new_tokens)
    written = whole.generate(
        **prompt,
        **({"use_cache": False} if anew else {CACHE: cache}),
        do_sample=False,
        max_new_tokens=how.max_new_tokens,
        eos_token_id=processor.end_ids,
        pad_token_id=pad_id,
        logits_processor=LogitsProcessorList([first]),
        synced_gpus=is_divided(model),  # a process whose answers end waits in step with the others
        **options,
    )
    answers = written[:, prompt["input_ids"].shape[1] :]  # the prompt holds negative ids, which cannot be decoded
    texts: list[str] = processor.tokenizer.batch_decode(
        answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    ends = torch.isin(answers, torch.tensor(processor.end_ids, device=answers.device))
    lengths = torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, answers.shape[1]).tolist()
    assert first.scores is not None, "at least one token is generated"
    losses: Sequence[float | None] = [None] * len(examples)
    if how.with_loss and (anew or crosses(model, examples, answers.shape[1])):
        losses = answer_losses(model, processor, examples)
    elif how.with_loss:
        cache.crop(prompt["input_ids"].shape[1] - cache.get_seq_length())
        losses = losses_after(model, prompt["attention_mask"], cache, first.scores, examples)
    return [Answer(*own) for own in zip(texts, lengths, first.scores.float().cpu(), losses, strict=True)]


def _computed_anew(model: nn.Module, examples: Sequence[Example], longest: int) -> bool:
    """Return whether every step computes the whole row: where weights are divided and a row may outgrow its keys.

    A process whose row does computes its images once more, and all processes must run the vision part in that step.
    """
    if not is_divided(model):
        return False
    return bool(most_of_all(crosses(model, examples, longest), next(model.parameters()).device))


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
