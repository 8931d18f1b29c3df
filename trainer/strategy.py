"""How a run is divided over its processes: DDP, DeepSpeed's ZeRO-2 and ZeRO-3, or FSDP2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from phi3v.schema import UserError
from phi3v.schema.errors import first_line, require
from phi3v.trainer.config import TrainConfig

SINGLE, DDP, FSDP2 = "single", "ddp", "fsdp2"  # beside zero1, zero2, zero3
SHIPPED = ("zero2", "zero3")
NO_ENGINE = "none"
TITLES = {SINGLE: "one process", DDP: "DDP", FSDP2: "FSDP2"}
# Blocks and values of a DeepSpeed file that would be a second, other answer to what a flag of ours decides.
INSTEAD_OF_BLOCK = {"optimizer": "--optim and --learning_rate", "scheduler": "--lr_scheduler_type"}
GONE = ("Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
BATCH = ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps")


class Strategy(NamedTuple):
    """How a run is divided, and why.

    Attributes:
        name: `single`, `ddp`, `fsdp2`, or `zero` and the stage.
        reason: why this one.
        settings: DeepSpeed's; None without it.
    """

    name: str
    reason: str
    settings: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        """The name as people write it."""
        return title(self.name)


def title(name: str) -> str:
    """Return the name of a strategy as people write it."""
    return TITLES.get(name) or f"ZeRO-{name[-1]}"


def choose(config: TrainConfig, *, count: int, on_gpu: bool) -> Strategy:
    """Return the strategy of a run.

    Args:
        config: the run's.
        count: processes.
        on_gpu: whether each has a GPU.

    Raises:
        UserError: what is asked for cannot be had.
    """
    engine = config.deepspeed or ("zero2" if config.offload_optimizer else None)
    if engine not in {None, NO_ENGINE}:
        require("deepspeed", "deepspeed")
        return _zero(str(engine), "as asked", offload=config.offload_optimizer)
    if config.fsdp:
        return Strategy(FSDP2, "as asked")
    if count == 1:
        return Strategy(SINGLE, "one GPU" if on_gpu else "on a CPU")
    why = {
        "as asked": engine == NO_ENGINE,
        "adapters are small: each GPU keeps all of them, and their optimizer": config.adapters,
        "on CPUs": not on_gpu,
    }
    if any(why.values()):
        return Strategy(DDP, next(reason for reason, holds in why.items() if holds))
    return _for_all_weights()


def _for_all_weights() -> Strategy:
    if find_spec("deepspeed") is None:
        return Strategy(FSDP2, "all weights train, and deepspeed is not installed: pip install 'phi3v[deepspeed]'")
    why = "all weights train: whole, their float32 copies and moments alone would be about 66 GB a GPU"
    return _zero("zero2", why, offload=False)


def _zero(name: str, reason: str, *, offload: bool) -> Strategy:
    settings = zero_settings(name)
    division = settings["zero_optimization"]
    if offload:
        division["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        reason += ", the optimizer in the CPU's memory"
    return Strategy(f"zero{division['stage']}", reason, settings)


def zero_settings(name: str) -> dict[str, Any]:
    """Return DeepSpeed's settings: the shipped `zero2` or `zero3`, or those of a JSON file.

    Raises:
        UserError: there is no such file, it is not DeepSpeed's, or decides what a flag decides.
    """
    path = Path(name)
    source: Any = files("phi3v.trainer") / f"{name}.json" if name in SHIPPED else path
    try:
        settings = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = f"give {', '.join(SHIPPED)}, {NO_ENGINE}, or a file of DeepSpeed's settings in JSON"
        raise UserError(f"--deepspeed cannot be read ({first_line(error)})", where=path, fix=fix) from error
    for what, fix in _against(settings):
        raise UserError(what, where=path, fix=fix)
    return dict(settings)


def _against(settings: Any) -> Iterator[tuple[str, str]]:
    """Yield what speaks against a file of DeepSpeed's settings, and what to do about it."""
    division = settings.get("zero_optimization") if isinstance(settings, dict) else None
    if not isinstance(division, dict) or division.get("stage") not in {1, 2, 3}:
        yield "names no ZeRO stage", 'write "zero_optimization": {"stage": 2} or another of 1, 2, 3'
        return
    for block, flag in INSTEAD_OF_BLOCK.items():
        if block in settings:
            yield f'"{block}" is decided by {flag} here', "leave it out of the file"
    for name in BATCH:
        if settings.get(name, "auto") != "auto":
            fix = 'write "auto", and give --batch_size'
            yield f'"{name}" {settings[name]} is decided by --batch_size here', fix


def check_checkpoint(folder: Path, strategy: Strategy, count: int) -> None:
    """Refuse a checkpoint that this division cannot go on from: DeepSpeed's parts are those of its processes.

    Raises:
        UserError: DeepSpeed saved it and does not load it, or the other way round, or on another number of processes.
    """
    parts = len(list(folder.glob("global_step*/*zero_pp_rank_*_optim_states.pt")))
    divided = strategy.settings is not None
    if bool(parts) != divided:
        was, now = ("DeepSpeed", strategy.title) if parts else ("a run without DeepSpeed", strategy.title)
        fix = f"go on with --deepspeed {'zero2 or zero3, as it began' if parts else NO_ENGINE}"
        raise UserError(f"was saved by {was}, and this run is divided by {now}", where=folder, fix=fix)
    if divided and parts != count:
        fix = f"start {parts} processes (--nproc {parts}), or a new run on the weights in this folder"
        raise UserError(
            f"was saved by {parts} processes with DeepSpeed, and this run has {count}", where=folder, fix=fix
        )


def explained(error: RuntimeError) -> UserError | None:
    """Return what an error of a collective means to a user; None of any other error."""
    text = str(error)
    if "imed out" in text or "imeout" in text:
        what = "this process has waited too long for another one"
        fix = "look for an error of another process above; if there is none, look at the network between nodes"
    elif any(part in text for part in GONE):
        what, fix = "another process is gone", "look for its error above, mend it, and go on with --resume auto"
    else:
        return None
    return UserError(f"{what} ({first_line(error)})", fix=fix)


def turn_on_fsdp(trainer: Any) -> None:
    """Put FSDP2 on where accelerate 1.15 leaves it off without a word: on CPUs, and in a process by itself."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state = trainer.accelerator.state
    if trainer.is_fsdp_enabled:
        return
    if not torch.distributed.is_initialized():  # one process by itself: a group of one
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # it is exported
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
    if trainer.accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(trainer.accelerator.mixed_precision)
    # In both: every state that is made later takes it from the partial one.
    PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = plugin
    trainer.is_fsdp_enabled = True


def engaged(wrapped: nn.Module) -> str:
    """Return the name of the strategy that a model is really under, by what the engines have made of it."""
    if isinstance(wrapped, DistributedDataParallel):
        return DDP
    if stage := getattr(wrapped, "zero_optimization_stage", None):
        return f"zero{stage()}"
    return FSDP2 if any(isinstance(weight, DTensor) for weight in wrapped.parameters()) else SINGLE
