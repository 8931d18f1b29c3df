"""Start a run's processes: `phi3v-train --nproc N` is torchrun on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from phi3v.schema import UserError

FAILED = 1
# Seconds to save in after SIGTERM: a checkpoint of all weights has 50 GB. Read by torch 2.14 and later, else 30.
GRACE = ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")


def count(wish: str) -> int:
    """Return how many processes are to be started from this one: 1 where a launcher has started it already.

    Args:
        wish: a number, or `auto` for one a GPU.

    Raises:
        UserError: more than there are GPUs.
    """
    if "WORLD_SIZE" in os.environ:
        return 1
    gpus = torch.cuda.device_count()
    if wish == "auto":
        return max(1, gpus)
    if gpus and int(wish) > gpus:
        raise UserError(f"--nproc {wish}, and there are {gpus} GPUs", fix="give as many at most, or auto")
    return int(wish)


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `phi3v-train` in so many processes, wait for them, and return the exit code of the first that failed, or 0.

    SIGTERM and SIGINT go on to all of them, which then have the time of `GRACE` to save.
    """
    os.environ.setdefault(*GRACE)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "phi3v.trainer", *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return int(failure.exitcode) if failure.exitcode > 0 else FAILED
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
