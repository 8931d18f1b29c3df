"""What a model learns from a record: its text cut into what is learned, what is only read, and images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from phi3v.trainer.config import TrainConfig
from phi3v.trainer.data import find_files
from phi3v.trainer.encode import Example
from phi3v.trainer.fit import Skipped, encode, fit
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.model.processor import Phi3VProcessor
from phi3v.trainer.plan import open_data

Kind = Literal["learned", "read", "image"]


class Span(NamedTuple):
    """Tokens of one kind that follow each other.

    Attributes:
        kind: `learned`: the loss counts them; `read`: it does not; `image`: their places are filled by an image.
        text: as the tokenizer gives it back.
        tokens: how many.
    """

    kind: Kind
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A training record as it is learned, or why it is skipped."""

    id: str
    skipped: str | None
    num_crops: int
    spans: list[Span]


def samples(config: TrainConfig, count: int) -> Iterator[Sample]:
    """Yield the first training records of a run as they are learned; no model is loaded.

    Raises:
        UserError: the data do not allow the run.
    """
    data = open_data(config, find_files(config.data_dir, config.on_error))
    for number in range(min(count, len(data.records))):
        record = data.records[number]
        how = fit(record, data.encoder, data.max_length)
        if isinstance(how, Skipped):
            yield Sample(record.id, how.reason, 0, [])
            continue
        example = encode(record, data.encoder, how)
        yield Sample(record.id, None, how.num_crops, list(spans(example, data.processor)))


def spans(example: Example, processor: Phi3VProcessor) -> Iterator[Span]:
    """Yield an encoded record as spans, in order: what they hold is decoded from the ids that the model gets."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    for (image, kind), group in groupby(pairs, key=lambda pair: (min(pair[0], 0), _kind(*pair))):
        ids = [token for token, _ in group]
        text = f"<|image_{-image}|>" if kind == "image" else processor.tokenizer.decode(ids)
        yield Span(kind, text, len(ids))


def _kind(token: int, label: int) -> Kind:
    if token < 0:
        return "image"
    return "read" if label == IGNORED else "learned"
