"""Every setting of a training run. No torch here: `phi3v-train --help` reads it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from phi3v.schema import UserError
from phi3v.schema.jsonl import atomic_write
from phi3v.schema.tokens import MAX_CROPS

FILE_NAME = "train_config.json"
MANY, LEAST = 2**40, 1e-12  # no upper bound; just above 0
BOUNDS: dict[str, tuple[float, float]] = {
    "batch_size": (1, MANY),
    "batch_size_per_gpu": (1, MANY),
    "eval_batch_size": (1, MANY),
    "learning_rate": (0, 1000),
    "logging_steps": (1, MANY),
    "lora_alpha_ratio": (LEAST, 1000),
    "lora_dropout": (0, 0.999),
    "lora_rank": (1, 65536),
    "max_new_tokens": (1, MANY),
    "max_steps": (-1, MANY),
    "num_crops": (1, MAX_CROPS),
    "num_train_epochs": (LEAST, 1e9),
    "num_workers": (0, 1024),
    "seed": (0, 2**32 - 1),
    "warmup_steps": (0, MANY),
    "wd": (0, 1000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What `phi3v-train` takes; names and defaults are the original recipe's where it has them."""

    data_dir: Annotated[Path, "A converted folder: *_train.jsonl, *_val.jsonl, images/."]
    output_dir: Annotated[Path, "Where the model, its processor, the scores and the log go."] = Path("output")
    overwrite: Annotated[bool, "Replace an earlier run in --output_dir."] = False
    model_name_or_path: Annotated[str, "A folder, a hub id, or 'tiny' (random weights, no download)."] = (
        "microsoft/Phi-3.5-vision-instruct"
    )
    use_lora: Annotated[bool, "Train low-rank adapters instead of all weights."] = False
    lora_rank: Annotated[int, "Rank of the adapters."] = 64
    lora_alpha_ratio: Annotated[float, "lora_alpha is this times the rank."] = 2.0
    lora_dropout: Annotated[float, "Dropout on the adapters' input."] = 0.0
    freeze_vision_model: Annotated[bool, "Train nothing of the vision tower, its projector and separators."] = False
    num_crops: Annotated[
        int | None, "Most crops of an image. [default: 16, or 4 where records hold several images]"
    ] = None
    batch_size: Annotated[int, "Samples per optimizer step, over all GPUs."] = 16
    batch_size_per_gpu: Annotated[int, "Samples per GPU in one forward."] = 1
    num_train_epochs: Annotated[float, "Passes over the training data."] = 1.0
    max_steps: Annotated[int, "Stop after this many optimizer steps; -1 for all epochs."] = -1
    learning_rate: Annotated[float, "Highest learning rate; it falls to 0 linearly."] = 4e-5
    warmup_steps: Annotated[int | None, "Steps up to that rate. [default: 50, or a tenth of a run under 500 steps]"] = (
        None
    )
    wd: Annotated[float, "Weight decay."] = 0.01
    bf16: Annotated[bool, "Compute in bfloat16. [default on a GPU that has it]"] = False
    use_flash_attention: Annotated[bool, "FlashAttention-2 instead of PyTorch's own attention; implies --bf16."] = False
    gradient_checkpointing: Annotated[
        bool, "Compute activations again instead of keeping them: less memory, slower."
    ] = True
    num_workers: Annotated[int, "Processes that read images while the model computes."] = 2
    eval_batch_size: Annotated[int, "Samples answered at a time in evaluation."] = 8
    max_new_tokens: Annotated[int, "Longest answer in evaluation."] = 64
    logging_steps: Annotated[int, "Optimizer steps between two lines of the log."] = 10
    seed: Annotated[int, "Of data order, dropout and new weights."] = 42
    tqdm: Annotated[bool, "Show progress bars."] = True

    def __post_init__(self) -> None:
        """Check what can be checked without a machine.

        Raises:
            UserError: a value is out of range; the message names the flag.
        """
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # NaN is in no range
                span = f"{least:g} or more" if most == MANY else f"{least:g} to {most:g}"
                raise UserError(f"--{name} {value} is out of range", fix=f"give {span}")

    def save(self, folder: Path) -> None:
        """Write the settings as JSON into a folder."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        with atomic_write(folder / FILE_NAME) as file:
            file.write((json.dumps(values, indent=2) + "\n").encode())
