"""What one process needs for one optimizer step, made in the loader's workers: images are opened here, late."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.utils.data import Dataset

from phi3v.schema import RecordError, UserError
from phi3v.trainer.collate import collate, pack
from phi3v.trainer.data import Policy, Records, changed
from phi3v.trainer.encode import Encoder, Example
from phi3v.trainer.fit import Fits, encode
from phi3v.trainer.model.modeling import IGNORED
from phi3v.trainer.steps import Step


class Failure(NamedTuple):
    """A sample that could not be read when its step came."""

    step: int
    sample: int
    reason: str


class StepBatch(NamedTuple):
    """The forwards of a step, one batch each, and what they hold.

    Attributes:
        step: its number.
        batches: as `Phi3VForCausalLM.forward` takes them.
        samples: the records they hold.
        labelled: tokens that are learned.
        tokens: tokens, padding not counted.
        places: tokens, padding counted.
        failures: samples of the step that could not be read.
    """

    step: int
    batches: list[dict[str, Any]]
    samples: list[int]
    labelled: int
    tokens: int
    places: int
    failures: list[Failure]


class StepData(Dataset[StepBatch]):
    """The training records by optimizer step.

    Args:
        records: all of them.
        encoder: how they are encoded.
        fits: how each fits.
        packed: lay the samples of a forward end to end instead of padding them.
        on_error: what to do with an image that cannot be read.
        pad_id: fills padded rows; any id, and also the tokens of a forward without samples.
    """

    def __init__(
        self,
        records: Records,
        encoder: Encoder,
        fits: Fits,
        *,
        packed: bool,
        on_error: Policy,
        pad_id: int,
    ) -> None:
        self._records = records
        self._encoder = encoder
        self._fits = fits
        self._packed = packed
        self._on_error = on_error
        self._pad_id = pad_id

    def ids(self, batch: StepBatch) -> list[str]:
        """Return the ids of the records in a step."""
        return [self._records[sample].id for sample in batch.samples]

    def __getitem__(self, step: Step) -> StepBatch:
        read = [[(sample, self._read(step.number, sample)) for sample in own] for own in step.packs]
        failures = [result for own in read for _, result in own if isinstance(result, Failure)]
        packs = [[(sample, result) for sample, result in own if isinstance(result, Example)] for own in read]
        batches = [self._batch([example for _, example in own]) for own in packs]
        examples = [example for own in packs for _, example in own]
        return StepBatch(
            step=step.number,
            batches=batches,
            samples=[sample for own in packs for sample, _ in own],
            labelled=sum(label != IGNORED for example in examples for label in example.labels),
            tokens=sum(len(example.input_ids) for example in examples),
            places=sum(batch["input_ids"].numel() for batch in batches),
            failures=failures,
        )

    def _read(self, step: int, sample: int) -> Example | Failure:
        try:
            return encode(self._records[sample], self._encoder, self._fits[sample])
        except RecordError as error:  # the file has changed since it was checked
            raise changed(error) from error
        except UserError as error:
            if self._on_error == "fail":
                raise
            return Failure(step, sample, error.what)

    def _batch(self, examples: list[Example]) -> dict[str, Any]:
        if not examples:
            # Every process runs as many forwards: this one's teaches nothing. Two tokens, for one is generation's.
            examples = [Example(id="", input_ids=[self._pad_id] * 2, labels=[IGNORED] * 2, images=None, answers=())]
        return pack(examples) if self._packed else collate(examples, pad_id=self._pad_id)
