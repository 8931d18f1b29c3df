"""LongRoPE, chosen for each sample by its own length.

The released models turn by one set of factors up to 4,096 positions and by another beyond. The original chooses
for the whole batch by its longest row, so that a short sample's logits depend on its neighbours; here each
sample, padded or packed, is computed as if it were alone.

Source: Phi3LongRoPEScaledRotaryEmbedding in modeling_phi3_v.py of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from phi3v.trainer.model.configuration import Phi3VConfig


class LongRotaryEmbedding(nn.Module):
    """Cosines and sines of rotary positions.

    The frequencies are no buffers: `model.to(bfloat16)` would cast them, at a cost of 6e-2 in the loss.
    """

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        self._config = config
        self._limit: int = config.original_max_position_embeddings
        self._tables: dict[torch.device, tuple[Tensor, Tensor, float]] = {}

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, (B, T, head width) in the type of `x`, of positions (B, T)."""
        short, long, scaling = self._frequencies(x.device)
        frequencies = short
        if position_ids.shape[-1] > self._limit or int(position_ids.max()) >= self._limit:
            beyond = sample_lengths(position_ids) > self._limit
            frequencies = torch.where(beyond[..., None], long, short)
        angles = position_ids[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * scaling).to(x.dtype), (angles.sin() * scaling).to(x.dtype)

    def _frequencies(self, device: torch.device) -> tuple[Tensor, Tensor, float]:
        """Return the short and the long inverse frequencies, float32, and the factor on cosines and sines."""
        if device not in self._tables:
            table = ROPE_INIT_FUNCTIONS["longrope"]
            # Computed on the CPU, so that every device turns by the same bits.
            short, scaling = table(self._config, torch.device("cpu"), seq_len=1)
            long, _ = table(self._config, torch.device("cpu"), seq_len=self._limit + 1)
            self._tables[device] = (short.to(device), long.to(device), scaling)
        return self._tables[device]


def sample_lengths(position_ids: Tensor) -> Tensor:
    """Return how long each position's sample is: (B, T). Positions start anew with each sample of a row."""
    sample = (position_ids == 0).cumsum(dim=-1)
    last = torch.zeros_like(position_ids[..., :1]).expand(-1, position_ids.shape[-1] + 1)
    last = last.scatter_reduce(-1, sample, position_ids, "amax", include_self=False)
    return last.gather(-1, sample) + 1
