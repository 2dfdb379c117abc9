"""PixDLM: `PixDLM.from_pretrained(folder).segment(image, question)`.

Importing this package makes its classes known to transformers' Auto classes.
"""

from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

from model.config import PixDLMConfig
from model.pixdlm import PixDLMForCausalLM
from model.processor import PixDLMProcessor
from model.segmentation import Segmentation
from model.segmenter import PixDLM

__all__ = ["PixDLM", "PixDLMConfig", "PixDLMForCausalLM", "PixDLMProcessor", "Segmentation"]

AutoConfig.register(PixDLMConfig.model_type, PixDLMConfig, exist_ok=True)
AutoModelForCausalLM.register(PixDLMConfig, PixDLMForCausalLM, exist_ok=True)
AutoProcessor.register(PixDLMConfig, PixDLMProcessor, exist_ok=True)
