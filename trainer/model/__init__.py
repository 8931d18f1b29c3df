"""Phi-3-vision and Phi-3.5-vision, native: importing this package registers them with the Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForCausalLM, AutoProcessor

from phi3v.trainer.model.configuration import Phi3VConfig
from phi3v.trainer.model.image_processor import Phi3VImageProcessor
from phi3v.trainer.model.modeling import Phi3VForCausalLM, Phi3VModel
from phi3v.trainer.model.processor import Phi3VProcessor

# exist_ok: a later transformers may bring a phi3_v of its own.
AutoConfig.register("phi3_v", Phi3VConfig, exist_ok=True)
AutoModelForCausalLM.register(Phi3VConfig, Phi3VForCausalLM, exist_ok=True)
AutoImageProcessor.register(Phi3VConfig, slow_image_processor_class=Phi3VImageProcessor, exist_ok=True)
AutoProcessor.register(Phi3VConfig, Phi3VProcessor, exist_ok=True)

__all__ = ["Phi3VConfig", "Phi3VForCausalLM", "Phi3VImageProcessor", "Phi3VModel", "Phi3VProcessor"]
