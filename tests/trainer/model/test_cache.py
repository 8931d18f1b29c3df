"""The cache with room to grow holds what transformers' own holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from phi3v.trainer.model import Phi3VForCausalLM
from phi3v.trainer.model.cache import CACHE, ROOM, RoomyLayer, roomy_cache
from phi3v.trainer.model.tiny import tiny_model, tiny_processor

ACTIONS = st.one_of(
    st.tuples(st.just("update"), st.integers(1, ROOM + 20)),
    st.tuples(st.just("crop"), st.integers(1, 40)),
    st.tuples(st.just("reorder"), st.permutations(range(3))),
    st.tuples(st.just("reset"), st.just(0)),
)


@given(st.lists(ACTIONS, min_size=1, max_size=8))
def test_any_course_of_a_cache_ends_in_the_same_keys_and_values(actions: list[tuple[str, Any]]) -> None:
    draw = torch.Generator().manual_seed(0)
    own, theirs = RoomyLayer(), DynamicLayer()
    for action, value in actions:
        for layer in (own, theirs) if action != "update" else ():
            if action == "crop" and layer.get_seq_length() > value:
                layer.crop(-value)
            elif action == "reorder" and layer.is_initialized:
                layer.reorder_cache(torch.tensor(value))
            elif action == "reset":
                layer.reset()
        if action == "update":
            keys, values = torch.randn(2, 3, 2, value, 4, generator=draw)
            given, expected = own.update(keys, values), theirs.update(keys, values)
            assert all(torch.equal(*pair) for pair in zip(given, expected, strict=True))
        assert own.get_seq_length() == theirs.get_seq_length()


def test_a_step_copies_nothing_while_there_is_room() -> None:
    layer = RoomyLayer()
    state = torch.zeros(1, 1, 1, 2)
    places = {layer.update(state, state)[0].data_ptr() for _ in range(ROOM + 1)}

    assert len(places) == 1
    layer.update(state, state)
    assert layer.get_seq_length() == ROOM + 2


@pytest.fixture(scope="module")
def model() -> Phi3VForCausalLM:
    return tiny_model(tiny_processor()).eval()


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3, "do_sample": False}])
def test_generation_writes_what_it_writes_with_transformers_cache(
    model: Phi3VForCausalLM, options: dict[str, Any]
) -> None:
    ids = torch.randint(300, 700, (2, 40), generator=torch.Generator().manual_seed(1))
    options |= {"max_new_tokens": 12, "eos_token_id": 1, "pad_token_id": 0}

    own = model.generate(ids, **options)
    theirs = model.generate(ids, **{CACHE: DynamicCache()}, **options)

    assert own.tolist() == theirs.tolist()


def test_the_cache_that_a_model_makes_has_room(model: Phi3VForCausalLM) -> None:
    ids = torch.randint(300, 700, (1, 10), generator=torch.Generator().manual_seed(1))
    options = {"do_sample": False, "max_new_tokens": 2, "eos_token_id": 1, "pad_token_id": 0}

    made = model.generate(ids, return_dict_in_generate=True, **options)

    assert [type(layer) for layer in made[CACHE].layers] == [RoomyLayer] * model.config.num_hidden_layers
    assert len(roomy_cache(5).layers) == 5
