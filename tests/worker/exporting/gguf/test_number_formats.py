"""Number formats, against llama.cpp's own quantiser."""

import ctypes
from collections import Counter
from pathlib import Path

import gguf
import numpy as np
import pytest
import xllamacpp
from gguf import GGMLQuantizationType as Kind

from app.core.spec.export import Quantization
from worker.exporting.gguf import number_formats


def ggml(rows: np.ndarray, kind: Kind) -> np.ndarray:
    """Quantise with llama.cpp's function."""
    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))))
    function = library.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    written = np.zeros((len(rows), number_formats.stored_bytes(rows.shape[1:], kind)), np.uint8)
    assert function(kind, rows.ctypes.data, written.ctypes.data, 0, *rows.shape, None) == written.nbytes
    return written


def hard_rows() -> np.ndarray:
    """Rows of usual weights, and rows of zeros, constants, tiny, positive and sparse numbers."""
    rows = (np.random.default_rng(0).standard_normal((256, 512)) * 0.05).astype(np.float32)
    rows[0], rows[1], rows[2, :64], rows[5, ::7] = 0, 0.3, 0, 2.0
    rows[3] *= 1e-6
    rows[4] = np.abs(rows[4])
    return rows


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q6_K, Kind.Q8_0, Kind.Q5_0])
def test_blocks_equal_llama_cpp(kind: Kind) -> None:
    """Up to the order of sums, which decides between equally good scales in a few blocks."""
    rows = hard_rows()
    ours, theirs = number_formats.convert(rows, kind), ggml(rows, kind)
    size = gguf.GGML_QUANT_SIZES[kind][1]
    assert (ours.reshape(-1, size) == theirs.reshape(-1, size)).all(-1).mean() > 0.95
    ours_error, theirs_error = (np.square(gguf.quants.dequantize(part, kind) - rows).mean() for part in (ours, theirs))
    assert ours_error == pytest.approx(theirs_error, rel=1e-2)


def test_mix_of_q4_k_m_gives_more_bits_to_some() -> None:
    """Counts of a published Llama 3.1 8B in Q4_K_M: 193 tensors in Q4_K, 33 in Q6_K, 65 in float32."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 32)
    shapes = {"token_embd.weight": (8, 512), "output.weight": (8, 512), "output_norm.weight": (512,)}
    for layer in range(32):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            shapes[f"blk.{layer}.{part}.weight"] = (8, 512)
        shapes |= {f"blk.{layer}.{part}_norm.weight": (512,) for part in ("attn", "ffn")}
    assert names.get_name("model.layers.31.mlp.down_proj.weight", (".weight",)) in shapes
    kinds = {name: number_formats.choose(name, shape, 32, False, Quantization.q4_k_m) for name, shape in shapes.items()}
    assert Counter(kinds.values()) == {Kind.Q4_K: 193, Kind.Q6_K: 33, Kind.F32: 65}


@pytest.mark.parametrize(
    ("columns", "name", "wanted", "chosen"),
    [
        (512, "token_embd.weight", Quantization.q4_k_m, Kind.Q6_K),
        (576, "token_embd.weight", Quantization.q4_k_m, Kind.Q8_0),
        (576, "blk.3.attn_q.weight", Quantization.q4_k_m, Kind.Q5_0),
        (40, "blk.3.attn_q.weight", Quantization.q4_k_m, Kind.F16),
        (40, "blk.3.attn_q.weight", Quantization.q8_0, Kind.F16),
        (40, "blk.3.attn_q.weight", Quantization.bf16, Kind.BF16),
    ],
)
def test_rows_of_odd_lengths_get_other_formats(columns: int, name: str, wanted: Quantization, chosen: Kind) -> None:
    assert number_formats.choose(name, (8, columns), 8, True, wanted) is chosen
