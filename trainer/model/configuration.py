"""Configuration of Phi-3-vision and Phi-3.5-vision, as the released `config.json` has it."""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig
from transformers.models.phi3.configuration_phi3 import Phi3Config

CLIP_VIT_LARGE_PATCH14_336: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}


class Phi3VConfig(Phi3Config):
    """Phi-3's configuration, and the vision part's.

    Attributes:
        img_processor: the vision tower: `image_dim_out` (its width) and, beyond the released files, `vision_config`
            (fields of `CLIPVisionConfig`) for a tower that is not ViT-L/14-336.
        embd_layer: how crops become embeddings; the released values are the only ones there are.

    Source: config.json of microsoft/Phi-3.5-vision-instruct.
    """

    model_type = "phi3_v"

    img_processor: dict[str, Any] | None = None
    embd_layer: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from a file's content."""
        # The released files ask for flash attention, which would fail on every machine without it even where
        # the caller asked for another; auto_map would be saved again, and asks to run remote code.
        released = {"_attn_implementation", "auto_map"}
        return super().from_dict({k: v for k, v in config_dict.items() if k not in released}, **kwargs)

    def convert_rope_params_to_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Read the RoPE parameters, and complete those of the released style ("su")."""
        rest = super().convert_rope_params_to_dict(*args, **kwargs)
        rope = self.rope_parameters
        if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
            # transformers warns without the ratio of the two lengths.
            rope.setdefault("factor", self.max_position_embeddings / self.original_max_position_embeddings)
            self.standardize_rope_params()
        return rest

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what is saved: RoPE and type under the names of the released files, which other programs read."""
        saved: dict[str, Any] = super().to_diff_dict()
        rope = saved.get("rope_parameters") or {}
        if rope.get("rope_type") == "longrope":
            del saved["rope_parameters"]
            saved["rope_theta"] = rope["rope_theta"]
            factors = {name: rope[name] for name in ("short_factor", "long_factor")}
            saved["rope_scaling"] = {"type": rope.get("type", "longrope"), **factors}
        if "dtype" in saved:
            saved["torch_dtype"] = saved["dtype"]
        return saved

    @property
    def vision_config(self) -> CLIPVisionConfig:
        """The vision tower's configuration."""
        fields = (self.img_processor or {}).get("vision_config") or CLIP_VIT_LARGE_PATCH14_336
        return CLIPVisionConfig(**fields)
