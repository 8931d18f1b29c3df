"""`phi3v-train` under observation, in a process of several; test_processes.py starts it.

Takes the command's options. Every process prints one line a step: under what the model trains, and which of its
forwards have images.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from phi3v.cli import train_main
from phi3v.trainer import run
from phi3v.trainer.scored_loop import ScoredTrainer


def proof(model: nn.Module) -> str:
    """Return what an engine has made of the model: its class, ZeRO's stage and offload, the class of its weights."""
    stage = f" {model.zero_optimization_stage()}" if hasattr(model, "zero_optimization_stage") else ""
    stage += " offloaded" if getattr(getattr(model, "optimizer", None), "cpu_offload", False) else ""
    weights = {type(weight).__name__ for weight in model.parameters()} - {"Parameter"}
    return " ".join([type(model).__name__ + stage, *sorted(weights)])


class Observed(ScoredTrainer):
    """Tells what each step is."""

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Train as the product does."""
        told = {
            "rank": self.accelerator.process_index,
            "step": inputs.step,
            "proof": proof(model),
            "images": ["pixel_values" in batch for batch in inputs.batches],
        }
        print("OBSERVED " + json.dumps(told), flush=True)  # noqa: T201  # read by the test
        return super().training_step(model, inputs, num_items_in_batch)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run.ScoredTrainer = Observed
    train_main()
