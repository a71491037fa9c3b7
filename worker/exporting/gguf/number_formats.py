"""Chooses the number format of each tensor, as llama.cpp's quantiser does, and converts to it."""

from typing import Final

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType
from gguf import GGMLQuantizationType as Kind

from app.core.spec.export import Quantization
from worker.exporting.gguf import k_quants

_PLAIN: Final = {Quantization.f16: Kind.F16, Quantization.bf16: Kind.BF16, Quantization.q8_0: Kind.Q8_0}
_FALLBACK: Final = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0}
"""Formats with blocks of 32 instead of 256, for rows of other lengths."""
FILE_TYPES: Final = {
    Quantization.f16: LlamaFileType.MOSTLY_F16,
    Quantization.bf16: LlamaFileType.MOSTLY_BF16,
    Quantization.q8_0: LlamaFileType.MOSTLY_Q8_0,
    Quantization.q4_k_m: LlamaFileType.MOSTLY_Q4_K_M,
}


def choose(name: str, shape: tuple[int, ...], layers: int, is_tied: bool, wanted: Quantization) -> GGMLQuantizationType:
    """Return the format of a tensor, with its name in GGUF. Vectors and norms stay in float32."""
    if len(shape) < 2:
        return Kind.F32
    kind = _PLAIN.get(wanted) or _mixed(name, layers, is_tied)
    if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = _FALLBACK.get(kind, Kind.F16)
    return kind if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else Kind.F16


def _mixed(name: str, layers: int, is_tied: bool) -> GGMLQuantizationType:
    """Return the format for q4_k_m: more bits for the output, and for v and down projections of some layers."""
    if name == "output.weight" or (is_tied and name == "token_embd.weight"):
        return Kind.Q6_K
    if name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            return Kind.Q6_K
    return Kind.Q4_K


def convert(array: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Return a float32 tensor in another format; bytes for formats that numpy lacks."""
    if kind in (Kind.Q4_K, Kind.Q6_K):
        return k_quants.quantize(array, kind)
    return gguf.quants.quantize(array, kind)


def stored_bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Return the size of a tensor in a format."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // block * size
