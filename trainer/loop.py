"""The Hugging Face Trainer, driven by optimizer steps: one item of the loader is all that a process does in a step.

The whole run is one pass over the loader, so that a resumed run skips steps by their numbers and reads no image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from phi3v.schema import UserError
from phi3v.trainer.checkpoints import keep_newest, mark
from phi3v.trainer.step_data import Failure, StepBatch, StepData
from phi3v.trainer.steps import Steps
from phi3v.trainer.strategy import DDP, FSDP2, SINGLE, Strategy, engaged, turn_on_fsdp

COUNTED = ("labelled", "samples", "tokens", "places", "stop")


class StepTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Trains by the steps of a run.

    Args:
        data: what a step reads.
        steps: the steps of all processes.
        rate: from a parameter's name to its own learning rate, or None for the run's.
        strategy: how the run is divided over the processes.
        keep: checkpoints kept; None keeps all.
        options: the Trainer's own.

    Attributes:
        stop: asked before each step; True saves a checkpoint after it and ends the run.
        failures: samples of this process that could not be read, by step.
        stopped: whether `stop` ended the run.
    """

    def __init__(
        self,
        *,
        data: StepData,
        steps: Steps,
        rate: Callable[[str], float | None],
        strategy: Strategy,
        keep: int | None = None,
        **options: Any,
    ) -> None:
        self.strategy = strategy
        super().__init__(**options)
        self.stop: Callable[[], bool] = lambda: False
        self.failures: list[Failure] = []
        self.stopped = False
        self._data = data
        self._steps = steps
        self._rate = rate
        self._keep = keep
        self._counts = dict.fromkeys(COUNTED, 0)
        self._trained = 0
        self._waited = 0.0
        self._since = time.perf_counter()
        self.add_callback(_AfterStep(self, steps.per_epoch))

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator, with FSDP2 really on where it was asked for."""
        super().create_accelerator_and_postprocess()
        if self.strategy.name == FSDP2:
            turn_on_fsdp(self)

    def get_train_dataloader(self) -> DataLoader[StepBatch]:
        """Return the loader of this process's steps."""
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self._data,
            batch_sampler=self._steps,
            collate_fn=_only,
            num_workers=workers,
            prefetch_factor=(self.args.dataloader_prefetch_factor or 2) if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[StepBatch] = self.accelerator.prepare(loader)  # deals the steps out to the processes
        return prepared

    def get_batch_samples(
        self, epoch_iterator: Iterator[StepBatch], num_batches: int, device: torch.device
    ) -> tuple[list[StepBatch], Tensor | None]:
        """Return the next step, and the labelled tokens of the global batch."""
        start = time.perf_counter()
        found, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.perf_counter() - start
        if not found:
            return found, None
        (step,) = found
        self.failures += step.failures
        own = [step.labelled, len(step.samples), step.tokens, step.places, self.stop()]
        counts = self.accelerator.gather(torch.tensor([own], dtype=torch.long, device=device)).sum(dim=0)
        for name, count in zip(COUNTED, counts.tolist(), strict=True):
            self._counts[name] += count
        self.stopped = bool(counts[-1])
        return found, counts[0].clamp(min=1)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        """Return nothing: `get_batch_samples` counts."""

    def training_step(
        self, model: nn.Module, inputs: StepBatch, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run the forwards of a step, exchanging gradients once; return the step's loss times the processes.

        Raises:
            UserError: the loss is no number; the message names the samples.
        """
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(inputs.batches, 1):
            last = number == len(inputs.batches)
            self.accelerator.gradient_state._set_sync_gradients(last)  # noqa: SLF001  # as the Trainer does
            with nullcontext() if last or self.is_deepspeed_enabled else self._unsynchronised(model):
                total += super().training_step(model, batch, num_items_in_batch)
        if not math.isfinite(total):
            raise UserError(
                f"the loss of step {self.state.global_step + 1} is {float(total)}; samples: {self._data.ids(inputs)}",
                fix="lower --learning_rate, or train in bf16 or fp32; look at these samples with --show",
            )
        return total

    def _unsynchronised(self, model: nn.Module) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.accelerator.no_sync(model=model)
        return context

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add speed, padding and waiting to a line of the log."""
        if "loss" in logs:
            seconds = time.perf_counter() - self._since
            logs |= {
                "samples_per_second": round(self._counts["samples"] / seconds, 3),
                "tokens_per_second": round(self._counts["tokens"] / seconds),
                "padding": round(1 - self._counts["tokens"] / max(1, self._counts["places"]), 4),
                "waiting_for_data": round(self._waited / seconds, 4),
            }
            if torch.cuda.is_available():  # of this process's GPU; the first speaks for all
                logs["gpu_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            self._trained += self._counts["samples"]
            self._counts = dict.fromkeys(COUNTED, 0)
            self._waited, self._since = 0.0, time.perf_counter()
        if "train_samples_per_second" in logs:  # the Trainer takes a step for a sample
            trained = self._trained + self._counts["samples"]
            logs["train_samples_per_second"] = round(trained / logs["train_runtime"], 3)
        super().log(logs, start_time)

    def leave_out(self, seconds: float) -> None:
        """Take time that was not spent training out of the speed."""
        self._since += seconds

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer, its groups divided by the parts' learning rates."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        names = {parameter: name for name, parameter in (model or self.model).named_parameters()}
        divided = [part for group in optimizer.param_groups for part in _by_rate(group, names, self._rate)]
        if len(divided) > len(optimizer.param_groups):
            optimizer.param_groups[:] = divided
        return optimizer

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint, and last the mark that says it is whole."""
        super()._save_checkpoint(model, trial)
        failures = self.all_failures()  # waits for every process
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            mark(folder, self.state.global_step, [list(failure) for failure in failures])
            keep_newest(folder.parent, self._keep, spare=self.state.best_global_step)
        self.accelerator.wait_for_everyone()

    def all_failures(self) -> list[Failure]:
        """Return the samples of all processes that could not be read."""
        from accelerate.utils import gather_object

        return [Failure(*failure) for failure in sorted(gather_object([tuple(own) for own in self.failures]))]


class _AfterStep(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Counts epochs of the data, where the Trainer counts passes over the loader; ends the run on request."""

    def __init__(self, trainer: StepTrainer, per_epoch: int) -> None:
        self._trainer = trainer
        self._per_epoch = per_epoch

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Check that the run is divided as it was said to be: an engine that is left out is no error to the others."""
        found, planned = engaged(self._trainer.model_wrapped), self._trainer.strategy.name
        if found != planned and (planned, found) != (SINGLE, DDP):  # torchrun with one process: DDP of one
            raise RuntimeError(f"the run was to be divided by {planned}, but the model is under {found}")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Set the epoch, and the wish to save and stop."""
        state.epoch = state.global_step / self._per_epoch
        if self._trainer.stopped:
            control.should_save = control.should_training_stop = True


def _only(items: list[StepBatch]) -> StepBatch:
    (item,) = items
    return item


def _by_rate(
    group: dict[str, Any], names: dict[Tensor, str], rate: Callable[[str], float | None]
) -> list[dict[str, Any]]:
    """Return an optimizer's group divided by learning rate."""
    parts: dict[float | None, list[Tensor]] = {}
    for parameter in group["params"]:
        parts.setdefault(rate(names[parameter]), []).append(parameter)
    rest = {key: value for key, value in group.items() if key != "params"}
    return [{**rest, "params": own, **({} if lr is None else {"lr": lr})} for lr, own in parts.items()]
