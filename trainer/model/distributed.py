"""What the model must know of other processes: where weights are exchanged or divided, all run the same modules.

Under DDP, ZeRO and FSDP every process takes part in the exchange of every weight. One that left a module out, or ran it
more often, would keep the others waiting for ever.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule


def exchanging() -> bool:
    """Return whether there is a group of processes, if only of one: torchrun's single process is under DDP, too."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized()


def is_divided(model: nn.Module) -> bool:
    """Return whether each process holds a part of each weight (ZeRO-3, FSDP2), gathered just now or not."""
    if not exchanging():
        return False
    gathered_in_turn = any(isinstance(part, FSDPModule) for part in model.modules())
    return gathered_in_turn or any(hasattr(weight, "ds_id") for weight in model.parameters())


def most_of_all(number: int, device: torch.device) -> int:
    """Return the largest of all processes' numbers; each must ask."""
    most = torch.tensor(number, device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)
