"""The language model's decoder layers in 8 or 4 bits, for inference on small machines.

Only the layers' matrices are quantised. Embeddings and lm_head, the projector, the [SEG] projection, the fusion, CLIP,
SAM2 and the mask decoder keep their dtype: they are a small part of the memory, and masks suffer from rounding there.
A matrix is quantised as soon as it has been read, so that the whole model never lies in memory unquantised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import LlamaForCausalLM
from transformers.utils.quantization_config import QuantizationMethod

from model.lora import merged_layer
from utils.runtime.errors import UserError

log = logging.getLogger(__name__)

BITSANDBYTES = ("8bit", "4bit")
INT8 = "int8"  # PyTorch's own dynamic quantisation, on CPUs
LOAD_IN = (*BITSANDBYTES, INT8)
# One scale, or one choice of outliers, for all rows of a product: an answer depends on those written beside it.
MIXES_ROWS = ("8bit", INT8)
OUTLIERS = 6.0  # of LLM.int8: larger inputs are multiplied unrounded; with the published threshold
PREFIX = "language_model."


def check_load_in(load_in: str | None, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a way of quantisation that does not exist or cannot run here.

    Args:
        load_in: as --load-in; None is always right.
        device: of the model.
        dtype: of what is not quantised.

    Raises:
        UserError: naming the cure.
    """
    if load_in is None:
        return
    if load_in not in LOAD_IN:
        raise UserError(f"--load-in is {load_in!r}; known are {', '.join(LOAD_IN)}; without it nothing is quantised")
    if load_in == INT8 and (device.type != "cpu" or dtype != torch.float32):
        raise UserError("--load-in int8 is for a CPU in fp32; use --device cpu --precision fp32, or 8bit or 4bit")
    if load_in in BITSANDBYTES and device.type not in ("cpu", "cuda"):
        raise UserError(f"--load-in {load_in} runs on CPUs and NVIDIA GPUs, not on {device.type}; leave it out")
    if load_in in BITSANDBYTES and find_spec("bitsandbytes") is None:
        raise UserError(f"--load-in {load_in} needs bitsandbytes; pip install 'bitsandbytes>=0.50'")


class LayerQuantizer:
    """Quantises each matrix of the decoder layers once all of its tensors are there, adapters merged into it before.

    Args:
        language_model: on the meta device, to be filled from files.
        load_in: one of LOAD_IN.
        device: where the quantised matrices go.
        dtype: of their inputs and outputs.
    """

    def __init__(
        self, language_model: LlamaForCausalLM, load_in: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.language_model, self.device, self.dtype = language_model, device, dtype
        self.convert = CONVERTERS[load_in]
        if load_in == "8bit" and device.type == "cpu":
            log.warning("8bit is made for GPUs and slow on a CPU; int8 or 4bit are faster here")
        self.waiting = decoder_matrices(language_model)

    def reads(self, name: str) -> bool:
        """Whether a tensor of the whole model, by name, belongs to a matrix that will be quantised."""
        return self._matrix_of(name) is not None

    def filled(self, name: str) -> None:
        """To be called after a tensor of the model got its values.

        Raises:
            ValueError: merged weights are not finite.
        """
        matrix = self._matrix_of(name)
        if matrix is None or any(one.is_meta for one in self.waiting[matrix].parameters()):
            return
        layer = self.waiting.pop(matrix)
        if isinstance(layer, LoraLayer):
            layer = merged_layer(layer)
        owner, _, leaf = matrix.rpartition(".")
        setattr(self.language_model.get_submodule(owner), leaf, self.convert(layer, self.device, self.dtype).eval())

    def _matrix_of(self, name: str) -> str | None:
        inner = name.removeprefix(PREFIX)
        if inner == name:
            return None
        while "." in inner:
            inner = inner.rpartition(".")[0]
            if inner in self.waiting:
                return inner
        return None


def decoder_matrices(language_model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers inside the decoder layers by name; one with an adapter counts once, with the adapter."""
    found: dict[str, nn.Module] = {}
    last = ""
    for name, module in language_model.named_modules():
        inside = last and name.startswith(f"{last}.")  # of a layer with an adapter
        if name.startswith("model.layers.") and isinstance(module, (nn.Linear, LoraLayer)) and not inside:
            found[name], last = module, name
    return found


def mark_quantized(model: nn.Module, load_in: str) -> None:
    """Note on a model what it was quantised in, so that it refuses what a quantised one cannot do."""
    model.load_in = load_in
    if load_in in BITSANDBYTES:
        model.quantization_method = QuantizationMethod.BITS_AND_BYTES  # transformers then refuses .to(dtype)


def _in_8bit(linear: nn.Linear, device: torch.device, _dtype: torch.dtype) -> nn.Module:
    """LLM.int8: rows of weights and of inputs in 8 bits, with outlying columns of the input in the dtype."""
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    # it tells in every single product that its inputs are rounded to float16 first
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    sizes, bias = (linear.in_features, linear.out_features), linear.bias is not None
    layer = Linear8bitLt(*sizes, bias=bias, has_fp16_weights=False, threshold=OUTLIERS, device="meta")
    layer.weight = Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    layer.bias = linear.bias
    return layer.to(device)


def _in_4bit(linear: nn.Linear, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """NF4 in blocks of 64, the blocks' scales in 8 bits: 4.13 bits a weight, unpacked for each product."""
    from bitsandbytes.nn import LinearNF4, Params4bit

    sizes, bias = (linear.in_features, linear.out_features), linear.bias is not None
    layer = LinearNF4(*sizes, bias=bias, compute_dtype=dtype, device="meta")
    layer.weight = Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=layer)
    layer.bias = linear.bias
    return layer.to(device)


def _in_int8(linear: nn.Linear, _device: torch.device, _dtype: torch.dtype) -> nn.Module:
    """Each row of weights with a scale, the inputs rounded as they come with one for all."""
    try:  # PyTorch has announced that it will be removed
        from torch.ao.nn.quantized.dynamic import Linear
        from torch.ao.quantization import per_channel_dynamic_qconfig
    except ImportError as error:
        raise UserError(f"--load-in int8: PyTorch {torch.__version__} has it no more; use 4bit") from error

    linear.qconfig = per_channel_dynamic_qconfig
    return Linear.from_float(linear)


CONVERTERS: dict[str, Callable[[nn.Linear, torch.device, torch.dtype], nn.Module]] = {
    "8bit": _in_8bit,
    "4bit": _in_4bit,
    INT8: _in_int8,
}
