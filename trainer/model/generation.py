"""What generation must know of images and of the two sets of RoPE factors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList
from transformers.generation import GenerationMixin
from transformers.models.phi3.modeling_phi3 import Phi3ForCausalLM

from phi3v.trainer.model.cache import CACHE, roomy_cache

IMAGE_INPUTS = ("pixel_values", "crop_counts", "image_sizes")


class ImageGeneration(GenerationMixin):
    """Generation with images, which go in with the prompt and take no part in any later step."""

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        cache: Any = None,
        attention_mask: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Prepare one step; the images go in with the prompt, and again where the cache is computed anew."""
        cache = past_key_values if cache is None else cache
        past = 0 if cache is None else cache.get_seq_length()
        anew = past > 0 and self._crosses(input_ids, attention_mask, past)
        if anew:
            cache, kwargs["next_sequence_length"] = None, None
        images_needed = bool(is_first_iteration or anew)
        # Not Phi3ForCausalLM's, which drops the cache by the length of the padded row.
        inputs: dict[str, Any] = super(Phi3ForCausalLM, self).prepare_inputs_for_generation(
            input_ids,
            attention_mask=attention_mask,
            is_first_iteration=images_needed,
            **{CACHE: cache},
            **kwargs,
        )
        if not images_needed and kwargs.get("use_cache", True):
            for name in IMAGE_INPUTS:
                inputs.pop(name, None)
        return inputs

    def _crosses(self, input_ids: Tensor, attention_mask: Tensor | None, past: int) -> bool:
        """Return whether a row outgrows the short RoPE factors in this step: its cache turned by the wrong ones."""
        limit: int = self.config.original_max_position_embeddings
        if input_ids.shape[1] <= limit:
            return False
        if attention_mask is None or attention_mask.ndim != 2:  # noqa: PLR2004  # no mask of padding
            return bool(past <= limit)
        before, now = attention_mask[:, :past].sum(dim=1), attention_mask.sum(dim=1)
        return bool(((before <= limit) & (now > limit)).any())

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Repeat each row for beams or several answers, and its images with it: they are no rows of their own."""
        images = {name: kwargs.pop(name) for name in IMAGE_INPUTS if kwargs.get(name) is not None}
        expanded_ids, expanded = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **kwargs
        )
        if images and input_ids is not None:
            of_rows = [len(row[row < 0].unique()) for row in input_ids]
            numbers = torch.split(torch.arange(sum(of_rows)), of_rows)
            order = torch.cat([own.repeat(expand_size) for own in numbers])
            crops = torch.split(images["pixel_values"], images["crop_counts"].tolist())
            images = {name: images[name][order] for name in ("crop_counts", "image_sizes")}
            images["pixel_values"] = torch.cat([crops[number] for number in order])
        return expanded_ids, expanded | images

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> None:
        """Give the cache that would be made by default room to grow."""
        given = model_kwargs.get(CACHE)
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        made: Any = model_kwargs.get(CACHE)
        if given is None and type(made) is DynamicCache and not made.offloading:
            model_kwargs[CACHE] = roomy_cache(self.config.num_hidden_layers)

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """Return the processors of the scores, to which an image's negative ids are the unknown token."""
        return _OfText(super()._get_logits_processor(*args, **kwargs))


class _OfText(LogitsProcessorList):
    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        processed: Tensor = super().__call__(input_ids.clamp(min=0), scores, **kwargs)
        return processed
