"""Keys and values of generation with room to grow: a step writes its own, and copies none of those before it."""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.models.phi3.modeling_phi3 import Phi3Model

# transformers 5.24 renamed the cache; both names are taken, each version gets its own.
CACHE = "cache" if "cache" in signature(Phi3Model.forward).parameters else "past_key_values"
ROOM = 256  # positions that are made at a time


def roomy_cache(layers: int) -> DynamicCache:
    """Return an empty cache for so many layers."""
    cache = DynamicCache()
    cache.layers = [RoomyLayer() for _ in range(layers)]
    return cache


class RoomyLayer(DynamicLayer):
    """The keys and values of one layer, (B, heads, T, D) views of tensors that are longer than T.

    transformers' own layer joins old and new at every step: at a prompt of thousands of tokens, most of a step. A
    window over the last positions is left to the mask: this layer keeps them all.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._rooms: tuple[Tensor, Tensor] | None = None
        self._view: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the new positions' (B, heads, t, D), and return all: (B, heads, T + t, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        rooms = self._rooms
        # Whoever cuts, reorders or resets a cache puts other tensors in the place of the views.
        if rooms is None or self.keys is not self._view or end > rooms[0].shape[-2]:
            rooms = self._rooms = (_grown(self.keys, key_states, end), _grown(self.values, value_states, end))
        for room, states in zip(rooms, (key_states, value_states), strict=True):
            room[..., start:end, :] = states
        self.keys, self.values = (room[..., :end, :] for room in rooms)
        self._view = self.keys
        return self.keys, self.values


def _grown(old: Tensor, new: Tensor, length: int) -> Tensor:
    """Return a tensor with room for so many positions and more, that begins with the old ones."""
    room = new.new_empty((*new.shape[:-2], length + ROOM, new.shape[-1]))
    if old.numel():
        room[..., : old.shape[-2], :] = old
    return room
