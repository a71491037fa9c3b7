"""Writes a LoRA adapter as a GGUF file that llama.cpp loads on top of its base model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from gguf import GGUFWriter, Keys

from app.core.spec.export import ExportRefused
from worker.exporting.gguf.families import family_of
from worker.exporting.gguf.model import Conversion, read_model_config
from worker.exporting.gguf.weights import LoraPair

_ALPHA: Final = 1.0
"""llama.cpp multiplies each pair by alpha / rank. With alpha 1, the rest of the factor is in the upper half: PEFT may
have another factor for each pair."""


def write_adapter(base: Path, adapter: Mapping[str, LoraPair], target: Path, name: str) -> None:
    """Write the file `target` in float32. Raises `ExportRefused` for a change that llama.cpp cannot load."""
    config = read_model_config(base)
    conversion = Conversion(config, family_of(config))
    names = conversion.names()
    writer = GGUFWriter(target, gguf.MODEL_ARCH_NAMES[conversion.family.architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, _ALPHA)
    for source, pair in adapter.items():
        label = names.get_name(source, try_suffixes=(".weight",))
        if label is None or not label.startswith("blk."):
            raise ExportRefused(
                "export_unsupported_adapter",
                f"The adapter changes {source}, which llama.cpp does not adapt. Export the model as `gguf` instead.",
            )
        rank = pair.down_R_I.shape[0]
        up = conversion.arrange(source, pair.up_O_R * np.float32(pair.scaling * rank / _ALPHA))
        writer.add_tensor(f"{label}.lora_a", pair.down_R_I)
        writer.add_tensor(f"{label}.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
