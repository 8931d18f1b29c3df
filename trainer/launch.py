"""Start a run's processes: `phi3v-train --nproc N` is torchrun on this machine."""

from __future__ import annotations

import os
import socket
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


def meet_anew() -> None:
    """Have the processes that torchrun has started again meet where those before them did not.

    torch 2.14 keeps one store for all rounds (`DynamicRendezvousHandler`): new processes would read in it where the old
    ones listened, and wait for them. `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` before torchrun does the same, also where
    nodes have been started again a different number of times.
    """
    known = os.environ
    if known.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" or known.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]  # it is exported
        known["MASTER_ADDR"], int(known["MASTER_PORT"]), is_master=False
    )
    key = f"phi3v/round/{known['TORCHELASTIC_RESTART_COUNT']}"
    if known["RANK"] == "0":
        with socket.socket() as found:
            found.bind(("", 0))
            store.set(key, str(found.getsockname()[1]))
    known["MASTER_PORT"] = store.get(key).decode()
    known["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # the first process keeps the new one


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
