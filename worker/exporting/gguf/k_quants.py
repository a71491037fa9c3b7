"""The number formats Q4_K and Q6_K of llama.cpp: super-blocks of 256 weights, each with quantised scales.

Follows `quantize_row_q4_K_ref` and `quantize_row_q6_K_ref` of ggml-quants.c, vectorised over blocks. The package gguf
reads these formats, but does not write them.
"""

from typing import Final

import numpy as np
from gguf import GGMLQuantizationType

Array = np.ndarray

_SUPER: Final = 256
_CHUNK: Final = 4096
"""Super-blocks that are quantised together, so that temporary arrays stay within the processor's cache."""
_TINY: Final = 1e-15


def quantize(rows_N_K: Array, kind: GGMLQuantizationType) -> Array:
    """Return the bytes [N, ...] of fp32 rows [N, K]; K is a multiple of 256."""
    function = {GGMLQuantizationType.Q4_K: _q4_k, GGMLQuantizationType.Q6_K: _q6_k}[kind]
    blocks = rows_N_K.reshape(-1, _SUPER)
    with np.errstate(divide="ignore", invalid="ignore"):  # blocks of zeros; their results are discarded
        parts = [function(blocks[start : start + _CHUNK]) for start in range(0, len(blocks), _CHUNK)]
    return np.concatenate(parts).reshape(len(rows_N_K), -1)


def _q4_k(blocks_B_256: Array) -> Array:
    """Weight = scale * level - minimum, with levels 0 to 15, and a scale and a minimum for each 32 weights."""
    x = blocks_B_256.reshape(-1, 8, 32)
    scales, minima = (part.reshape(-1, 8) for part in _fit_affine(x.reshape(-1, 32)))
    top_scale, top_minimum = scales.max(-1, keepdims=True), minima.max(-1, keepdims=True)
    scale_levels = np.minimum(63, np.rint(np.where(top_scale > 0, 63 / top_scale, 0) * scales)).astype(np.uint8)
    minimum_levels = np.minimum(63, np.rint(np.where(top_minimum > 0, 63 / top_minimum, 0) * minima)).astype(np.uint8)
    d, d_min = (top_scale / 63).astype(np.float16), (top_minimum / 63).astype(np.float16)
    step = (d.astype(np.float32) * scale_levels)[..., None]
    offset = (d_min.astype(np.float32) * minimum_levels)[..., None]
    levels = np.clip(np.rint(np.where(step != 0, (x + offset) / step, 0)), 0, 15).astype(np.uint8)
    pairs = levels.reshape(-1, 4, 2, 32)
    packed = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(-1, 128)
    return np.concatenate(
        [d.view(np.uint8), d_min.view(np.uint8), _pack_6_bit(scale_levels, minimum_levels), packed], -1
    )


def _pack_6_bit(scales_B_8: Array, minima_B_8: Array) -> Array:
    """Pack 16 numbers of 6 bits into 12 bytes."""
    low_scales, high_scales = scales_B_8[:, :4], scales_B_8[:, 4:]
    low_minima, high_minima = minima_B_8[:, :4], minima_B_8[:, 4:]
    return np.concatenate(
        [
            low_scales | (high_scales >> 4 << 6),
            low_minima | (high_minima >> 4 << 6),
            (high_scales & 15) | ((high_minima & 15) << 4),
        ],
        -1,
    )


def _fit_affine(x_N_32: Array) -> tuple[Array, Array]:
    """Return scale and minimum [N] of 32 weights each: ggml's `make_qkx2_quants` with 21 trials.

    A trial rounds the weights with one guess of the scale, then solves weighted least squares for scale and minimum.
    Larger weights count more.
    """
    importance = np.sqrt(np.square(x_N_32).mean(-1, keepdims=True)) + np.abs(x_N_32)
    low, high = np.minimum(x_N_32.min(-1), 0), x_N_32.max(-1)
    sum_w, sum_x = importance.sum(-1), (importance * x_N_32).sum(-1)
    scale, minimum = (high - low) / 15, low

    def rounded(steps: np.float32) -> Array:
        levels: Array = np.clip(np.rint((x_N_32 - minimum[:, None]) * (steps / (high - minimum))[:, None]), 0, 15)
        return levels

    levels = rounded(np.float32(15))
    best = (importance * np.square(scale[:, None] * levels + minimum[:, None] - x_N_32)).sum(-1)
    for trial in range(21):
        levels = rounded(np.float32(0.1) * np.float32(trial) + np.float32(14))
        weighted = importance * levels
        sum_l, sum_l2, sum_xl = weighted.sum(-1), (weighted * levels).sum(-1), (weighted * x_N_32).sum(-1)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        new_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        positive = new_minimum > 0
        new_scale, new_minimum = np.where(positive, sum_xl / sum_l2, new_scale), np.where(positive, 0, new_minimum)
        error = (importance * np.square(new_scale[:, None] * levels + new_minimum[:, None] - x_N_32)).sum(-1)
        better = (determinant > 0) & (error < best)
        best, scale = np.where(better, error, best), np.where(better, new_scale, scale)
        minimum = np.where(better, new_minimum, minimum)
    return np.where(high > low, scale, 0), 0 - minimum


def _q6_k(blocks_B_256: Array) -> Array:
    """Weight = scale * level, with levels -32 to 31, and an 8-bit scale for each 16 weights."""
    x = blocks_B_256.reshape(-1, 16, 16)
    scales = _fit_linear(x.reshape(-1, 16)).reshape(-1, 16)
    largest = np.take_along_axis(scales, np.abs(scales).argmax(-1)[:, None], -1)
    present = np.abs(largest) >= _TINY
    inverse = np.where(present, -128 / largest, 0)
    d = np.where(present, 1 / inverse, 0).astype(np.float16)
    scale_levels = np.minimum(127, np.rint(inverse * scales)).astype(np.int8)
    step = (d.astype(np.float32) * scale_levels)[..., None]
    levels = np.where(step != 0, np.clip(np.rint(x / step), -32, 31) + 32, 0).astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = levels & 15, levels >> 4
    low_bits = np.stack([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], 2).reshape(-1, 128)
    high_bits = (high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)).reshape(-1, 64)
    return np.concatenate([low_bits, high_bits, scale_levels.view(np.uint8), d.view(np.uint8)], -1)


def _fit_linear(x_N_16: Array) -> Array:
    """Return the scale [N] of 16 weights each: ggml's `make_qx_quants` with 19 trials."""
    largest = np.take_along_axis(x_N_16, np.abs(x_N_16).argmax(-1)[:, None], -1)[:, 0]
    squares = np.square(x_N_16)

    def trial(step: int) -> tuple[Array, Array]:
        levels = np.clip(np.rint(x_N_16 * (-(32 + np.float32(0.1) * step) / largest)[:, None]), -32, 31)
        weighted = squares * levels
        return (weighted * x_N_16).sum(-1), (weighted * levels).sum(-1)

    sum_xl, sum_l2 = trial(0)
    scale = np.where(sum_l2 > 0, sum_xl / sum_l2, 0)
    best = scale * sum_xl
    for step in (*range(-9, 0), *range(1, 10)):
        sum_xl, sum_l2 = trial(step)
        better = (sum_l2 > 0) & (sum_xl * sum_xl > best * sum_l2)
        scale = np.where(better, sum_xl / sum_l2, scale)
        best = np.where(better, scale * sum_xl, best)
    return np.where(np.abs(largest) >= _TINY, scale, 0)
