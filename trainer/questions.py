"""What is asked in an evaluation: the records, in which order, and which process asks which."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from phi3v.schema import Conversation
from phi3v.trainer.data import Records
from phi3v.trainer.encode import Encoder
from phi3v.trainer.fit import Fit, Skipped, fit
from phi3v.trainer.metrics import normalise

AT_ONCE = 20_480  # tokens of the prompts that are answered at a time by default: eight pages of 16 crops


class Question(NamedTuple):
    """What must be known of a record before it is asked.

    Attributes:
        number: its place in the data.
        source: chooses the metric.
        tokens: of the prompt, or of the whole record; for sorting.
        how: as the record goes into the model in training: its crops, its turns left out.
        answer: the first accepted answer; None in a record without one, which is predicted and not scored.
        listed: whether it has a list of accepted answers.
        group: the sentence that it shares with other records (NLVR2), or None.
    """

    number: int
    source: str
    tokens: int
    how: Fit
    answer: str | None
    listed: bool
    group: str | None


def survey(records: Records, encoder: Encoder, max_length: int) -> Iterator[Question]:
    """Yield what is asked, in the order of the data; of pictures only the headers are read.

    Raises:
        UserError: the header of an image cannot be read.
    """
    for number in range(len(records)):
        record = records[number]
        turn = record.turns[-1]
        how = _fitted(record, encoder, max_length)
        answer = next(iter(turn.accepted), None)
        yield Question(number, record.source, how.tokens, how, answer, bool(turn.answers), sentence_of(record))


def _fitted(record: Conversation, encoder: Encoder, max_length: int) -> Fit:
    """Return how a record fits as in training; one that does not, or has no answer, is asked whole."""
    if record.turns[-1].assistant is not None:
        how = fit(record, encoder, max_length)
        if not isinstance(how, Skipped):
            return how
    tokens = encoder.measure(record, answered=False).tokens(encoder.num_crops)
    return Fit(tokens, 0, encoder.num_crops)


def sentence_of(record: Conversation) -> str | None:
    """Return what NLVR2's pairs of one sentence share: their identifier without the number of the pair.

    Source: `split-set-pair-sentence` in https://github.com/lil-lab/nlvr, whose script blanks the pair.
    """
    identifier = (record.metadata or {}).get("identifier")
    parts = identifier.split("-") if isinstance(identifier, str) else []
    return "-".join([*parts[:2], *parts[3:]]) if len(parts) == 4 else None  # noqa: PLR2004  # as the docstring has it


def sample(questions: Sequence[Question], limit: int | None, seed: int) -> list[Question]:
    """Return so many questions, drawn by the seed, in the order of the data; all of them without a limit.

    Those that can be scored come first: the others are drawn where there are not enough.

    Of a sentence that is not drawn whole no consistency can be told: its questions lose their group.
    """
    if limit is None or limit >= len(questions):
        return list(questions)
    draw = random.Random(seed).sample  # noqa: S311  # no secret
    scored = [place for place, question in enumerate(questions) if question.answer is not None]
    places = draw(scored, min(limit, len(scored)))
    places += draw(sorted(set(range(len(questions))) - set(scored)), limit - len(places))
    drawn = [questions[place] for place in sorted(places)]
    cut = {question.group for question in questions} - {None}
    whole = cut - {question.group for question in set(questions) - set(drawn)}
    return [question if question.group in whole else question._replace(group=None) for question in drawn]


class Ask(NamedTuple):
    """Questions of one forward; `again` marks one that another process asks, so that all do equally many."""

    questions: tuple[Question, ...]
    again: bool = False


def deal(questions: Iterable[Question], batch_size: int | None, processes: int) -> list[list[Ask]]:
    """Return what each process asks: batches of like length, the longest first, equally many for each process.

    Each question is counted once. Where weights are divided over the processes (ZeRO-3, FSDP) a process that had
    fewer batches would keep the others waiting for ever: it asks its last batch again, and nobody counts it.

    Args:
        questions: what is asked.
        batch_size: most questions of a batch; None for as many as have `AT_ONCE` tokens together, padding counted.
        processes: how many take part.
    """
    ordered = sorted(questions, key=lambda question: (-question.tokens, question.number))
    most = min(batch_size or len(ordered), math.ceil(len(ordered) / processes))
    asks = [Ask(batch) for batch in _batches(ordered, most, None if batch_size else AT_ONCE)]
    filler = Ask(asks[-1].questions, again=True) if asks else None
    each = math.ceil(len(asks) / processes)
    return [[*own, *[filler] * (each - len(own))] for own in (asks[rank::processes] for rank in range(processes))]  # type: ignore[list-item]


def _batches(ordered: Sequence[Question], most: int, tokens: int | None) -> Iterator[tuple[Question, ...]]:
    start = 0
    while start < len(ordered):
        longest = max(1, ordered[start].tokens)
        size = min(most, max(1, tokens // longest)) if tokens else most
        yield tuple(ordered[start : start + size])
        start += size


def distinct_answers(questions: Iterable[Question]) -> dict[str, str]:
    """Return the answers that differ when normalised, by their normal form, each as the data spell it first."""
    found: dict[str, str] = {}
    for question in questions:
        if question.answer is not None:
            found.setdefault(normalise(question.answer), question.answer)
    return found
