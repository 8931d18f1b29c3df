"""Every setting of a training run. No torch here: `phi3v-train --help` reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from phi3v.schema import UserError
from phi3v.schema.errors import first_line, require
from phi3v.schema.jsonl import atomic_write
from phi3v.schema.tokens import MAX_CROPS

FILE_NAME = "train_config.json"
METRICS = ("accuracy", "exact_match", "anls", "anls_recipe", "auroc", "consistency")
Precision = Literal["bf16", "fp16", "fp32"]
KINDS: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
MANY, LEAST = 2**40, 1e-12  # no upper bound; just above 0
BOUNDS: dict[str, tuple[float, float]] = {
    "batch_size": (1, MANY),
    "batch_size_per_gpu": (1, MANY),
    "early_stopping_patience": (1, MANY),
    "eval_batch_size": (1, MANY),
    "eval_limit": (1, MANY),
    "eval_steps": (1, MANY),
    "learning_rate": (0, 1000),
    "logging_steps": (1, MANY),
    "gpu_memory": (LEAST, MANY),
    "gpus": (1, 65536),
    "lora_alpha_ratio": (LEAST, 1000),
    "lora_dropout": (0, 0.999),
    "lora_rank": (1, 65536),
    "max_length": (2, MANY),
    "max_new_tokens": (1, MANY),
    "max_steps": (-1, MANY),
    "max_tokens_per_gpu": (2, MANY),
    "num_crops": (1, MAX_CROPS),
    "num_train_epochs": (LEAST, 1e9),
    "num_workers": (0, 1024),
    "projector_learning_rate": (0, 1000),
    "save_steps": (0, MANY),
    "save_total_limit": (1, MANY),
    "seed": (0, 2**32 - 1),
    "vision_learning_rate": (0, 1000),
    "warmup_steps": (0, MANY),
    "warmup_ratio": (0, 1),
    "wd": (0, 1000),
}


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a YAML or JSON file by their names.

    Raises:
        UserError: it is no mapping of names.
    """
    require("train", "yaml")
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot be read ({first_line(error)})", where=path, fix="write it as YAML or JSON") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError("holds no settings", where=path, fix="write one `name: value` a line")
    given = {name.replace("-", "_"): value for name, value in content.items() if value is not None}
    own = {field.name for field in fields(TrainConfig)}
    # What is the Trainer's is text until transformers is loaded, and knows its type.
    return {
        name: value if name in own or isinstance(value, str) else json.dumps(value) for name, value in given.items()
    }


def metric_names(text: str | None) -> tuple[str, ...]:
    """Return the names of metrics in a text, comma-separated; none if there is no text.

    Raises:
        UserError: one is not known.
    """
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    for name in names:
        if name not in METRICS:
            raise UserError(f"--metric {name} is not known", fix=f"give some of {', '.join(METRICS)}")
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What `phi3v-train` takes; names and defaults are the original recipe's where it has them."""

    data_dir: Annotated[Path, "A converted folder: *_train.jsonl, *_val.jsonl, images/."]
    output_dir: Annotated[Path, "Where the model, its processor, the scores and the log go."] = Path("output")
    overwrite: Annotated[bool, "Replace an earlier run in --output_dir."] = False
    resume: Annotated[
        str | None, "Go on with the run in --output_dir: 'auto' from its newest whole checkpoint, or a checkpoint."
    ] = None
    model_name_or_path: Annotated[str, "A folder, a hub id, or 'tiny' (random weights, no download)."] = (
        "microsoft/Phi-3.5-vision-instruct"
    )
    preset: Annotated[
        str | None,
        "Settings of a row of the recipe's result tables; options win over it. --list_presets has the names.",
    ] = None
    use_lora: Annotated[bool, "Train low-rank adapters instead of all weights."] = False
    use_qlora: Annotated[bool, "The same on 4-bit (NF4) weights; the vision part stays as it is."] = False
    lora_rank: Annotated[int, "Rank of the adapters."] = 64
    lora_alpha_ratio: Annotated[float, "lora_alpha is this times the rank."] = 2.0
    lora_dropout: Annotated[float, "Dropout on the adapters' input."] = 0.0
    lora_targets: Annotated[str | None, "Modules with adapters, comma-separated. [default: the recipe's]"] = None
    use_rslora: Annotated[bool, "Scale adapters by the root of the rank (rank-stabilised LoRA)."] = False
    use_dora: Annotated[bool, "Learn the weights' magnitude beside the adapters (DoRA)."] = False
    freeze_vision_model: Annotated[bool, "Train nothing of the vision tower, its projector and separators."] = False
    num_crops: Annotated[
        int | None, "Most crops of an image. [default: 16, or 4 where records hold several images]"
    ] = None
    max_length: Annotated[
        int | None,
        "Most tokens of a sample. Over it: fewer crops, then without its oldest turns, else skipped."
        " [default: --max_tokens_per_gpu, or what the model takes]",
    ] = None
    on_error: Annotated[Literal["fail", "skip"], "What to do with a picture that cannot be read."] = "fail"
    batch_size: Annotated[int, "Samples per optimizer step, over all GPUs."] = 16
    batch_size_per_gpu: Annotated[int, "Samples per GPU in one forward."] = 1
    max_tokens_per_gpu: Annotated[
        int | None, "Instead of it: pack samples up to so many tokens in one forward, without padding."
    ] = None
    num_train_epochs: Annotated[float, "Passes over the training data."] = 1.0
    max_steps: Annotated[int, "Stop after this many optimizer steps; -1 for all epochs."] = -1
    learning_rate: Annotated[float, "Highest learning rate; it falls to 0 linearly."] = 4e-5
    vision_learning_rate: Annotated[float | None, "The same for the vision tower."] = None
    projector_learning_rate: Annotated[float | None, "The same for the projector and the separators."] = None
    warmup_steps: Annotated[int | None, "Steps up to that rate. [default: 50, or a tenth of a run under 500 steps]"] = (
        None
    )
    warmup_ratio: Annotated[float | None, "The same as a share of the run."] = None
    wd: Annotated[float, "Weight decay."] = 0.01
    bf16: Annotated[bool, "Compute in bfloat16. [default on a GPU that has it]"] = False
    fp16: Annotated[bool, "Compute in float16. [default on other GPUs]"] = False
    fp32: Annotated[bool, "Compute in float32. [default on a CPU]"] = False
    use_flash_attention: Annotated[bool, "The same as --attention flash_attention_2."] = False
    attention: Annotated[
        Literal["auto", "sdpa", "eager", "flash_attention_2"], "Which attention; auto is the fastest that runs here."
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool, "Compute activations again instead of keeping them: less memory, slower."
    ] = True
    nproc: Annotated[str, "Processes on this machine, one a GPU; auto is as many as it has GPUs."] = "auto"
    deepspeed: Annotated[
        str | None,
        "zero2, zero3, a file of DeepSpeed's settings, or none."
        " [default: zero2 where all weights train on several GPUs, else none: DDP]",
    ] = None
    offload_optimizer: Annotated[bool, "With DeepSpeed, keep the optimizer in the CPU's memory."] = False
    fsdp: Annotated[bool, "Divide weights, gradients and optimizer over the GPUs by PyTorch's FSDP2."] = False
    num_workers: Annotated[int, "Processes that read images while the model computes."] = 2
    eval_batch_size: Annotated[
        int | None, "Samples answered at a time in evaluation. [default: as many as have 20,480 tokens together]"
    ] = None
    max_new_tokens: Annotated[int, "Longest answer in evaluation."] = 64
    eval_before: Annotated[
        str | None, "Samples scored before training: all, none, or N of them. [default: all, or 200 of more than 500]"
    ] = None
    eval_steps: Annotated[int | None, "Score also every so many optimizer steps."] = None
    eval_limit: Annotated[int | None, "Score on so many samples at most, drawn by --seed."] = None
    eval_only: Annotated[bool, "Score the model as it is, and train nothing."] = False
    metric: Annotated[
        str | None, f"Metrics, comma-separated: {', '.join(METRICS)}. [default: by the data's source]"
    ] = None
    positive_answer: Annotated[str | None, "The answer that auroc is about. [default: Yes for hateful_memes]"] = None
    metric_for_best: Annotated[
        str | None, "With --eval_steps, which score or 'loss' chooses the weights to keep; 'none' for the last ones."
    ] = None
    early_stopping_patience: Annotated[int | None, "Stop after so many evaluations without a better score."] = None
    dry_run: Annotated[
        bool, "Say what the run will be, its memory too, and stop: no GPU, no weights, of pictures the headers."
    ] = False
    gpus: Annotated[int | None, "With --dry_run, on how many GPUs. [default: as many as there are here, or 1]"] = None
    gpu_memory: Annotated[
        float | None, "With --dry_run, GiB of a GPU: does the run fit, and if not, which smallest change would?"
    ] = None
    logging_steps: Annotated[int, "Optimizer steps between two lines of the log."] = 10
    save_steps: Annotated[int, "Optimizer steps between two checkpoints; 0 for none."] = 500
    save_total_limit: Annotated[int, "How many checkpoints to keep."] = 2
    seed: Annotated[int, "Of data order, dropout and new weights."] = 42
    tqdm: Annotated[bool, "Show progress bars."] = True
    # Fields of transformers.TrainingArguments, by name, as text.
    more: Mapping[str, str] = field(default_factory=dict)

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
        kinds = [name for name in KINDS if getattr(self, name)]
        if len(kinds) > 1:
            raise UserError(f"--{kinds[0]} and --{kinds[1]} exclude each other", fix="choose one")
        if self.use_flash_attention and self.attention not in {"auto", "flash_attention_2"}:
            fix = "choose one"
            raise UserError(f"--use_flash_attention and --attention {self.attention} exclude each other", fix=fix)
        if self.overwrite and self.resume:
            raise UserError("--overwrite and --resume exclude each other", fix="choose one")
        if self.max_tokens_per_gpu and self.batch_size_per_gpu > 1:
            fix = "leave one out: packing decides how many samples go into a forward"
            raise UserError("--max_tokens_per_gpu and --batch_size_per_gpu exclude each other", fix=fix)
        if not self.dry_run and (self.gpus or self.gpu_memory):
            raise UserError("--gpus and --gpu_memory are --dry_run's", fix="add --dry_run, or leave them out")

        self._check_division()
        self._check_scoring()

    def _check_division(self) -> None:
        if self.nproc != "auto" and not (self.nproc.isdecimal() and int(self.nproc)):
            raise UserError(f"--nproc {self.nproc} is no number of processes", fix="give auto, or 1 or more")
        engines = [f"--deepspeed {self.deepspeed}"] if self.deepspeed not in {None, "none"} else []
        engines += ["--fsdp"] if self.fsdp else []
        if len(engines) > 1:
            raise UserError(f"{engines[0]} and {engines[1]} exclude each other", fix="choose one")
        if self.use_qlora and engines:
            fix = "leave it out: adapters on 4 bits take DDP, a whole model on each GPU"
            raise UserError(f"{engines[0]} does not divide weights of 4 bits", fix=fix)
        engine = "none" if self.deepspeed is None and (self.adapters or self.fsdp) else self.deepspeed
        if self.offload_optimizer and engine == "none":
            fix = "add --deepspeed zero2, or leave it out"
            raise UserError("--offload_optimizer is DeepSpeed's", fix=fix)

    def _check_scoring(self) -> None:
        metric_names(self.metric)
        if self.eval_before not in {None, "all", "none"} and not str(self.eval_before).isdecimal():
            raise UserError(f"--eval_before {self.eval_before} is none of all, none, N", fix="give one of them")
        for name in ("metric_for_best", "early_stopping_patience"):
            if getattr(self, name) is not None and self.eval_steps is None:
                raise UserError(f"--{name} needs scores during the run", fix="add --eval_steps N")
        if self.early_stopping_patience is not None and self.metric_for_best == "none":
            raise UserError("--early_stopping_patience needs a score to go by", fix="name one as --metric_for_best")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics asked for; none for those of the data's sources."""
        return metric_names(self.metric)

    @property
    def kind(self) -> Precision | None:
        """The precision asked for, if any."""
        return next((kind for kind in KINDS if getattr(self, kind)), None)

    @property
    def adapters(self) -> bool:
        """Whether adapters train instead of the weights."""
        return self.use_lora or self.use_qlora

    @property
    def strategy(self) -> str:
        """What is trained, in words."""
        what = "QLoRA" if self.use_qlora else "LoRA" if self.use_lora else "full fine-tuning"
        return what + (", vision part frozen" if self.freeze_vision_model else "")

    def values(self) -> dict[str, Any]:
        """Return the settings as JSON has them, the fields of TrainingArguments among them."""
        own = asdict(self)
        more: dict[str, str] = own.pop("more")
        return {name: str(value) if isinstance(value, Path) else value for name, value in own.items()} | more

    def save(self, folder: Path) -> None:
        """Write the settings as JSON into a folder; `--config` reads them again."""
        with atomic_write(folder / FILE_NAME) as file:
            file.write((json.dumps(self.values(), indent=2) + "\n").encode())
