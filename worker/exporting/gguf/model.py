"""Writes one GGUF file from a base model and its LoRA adapter, merged in float32 tensor by tensor."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from transformers import AutoConfig

from app.core.chat import tokenizer as chat
from app.core.spec.export import ExportRefused, Quantization
from worker.exporting.gguf.families import Family, family_of, head_size
from worker.exporting.gguf.hyperparameters import add_hyperparameters, rope_factors
from worker.exporting.gguf.number_formats import FILE_TYPES, choose, convert, stored_bytes
from worker.exporting.gguf.vocabulary import add_special_tokens, read_vocabulary
from worker.exporting.gguf.weights import Array, BaseWeights, LoraPair

_EMBEDDINGS: Final = "model.embed_tokens.weight"
_HEAD: Final = "lm_head.weight"


@dataclass
class Rounding:
    """How much of the adapter's change D is left in the stored weights: D^ = stored - base weight, over all tensors."""

    wanted: float = 0.0
    """Sum of D D."""
    kept: float = 0.0
    """Sum of D^ D."""

    def add(self, base: Array, change: Array, stored: Array) -> None:
        """Add one tensor."""
        self.wanted += float(np.vdot(change, change))
        self.kept += float(np.vdot(stored - base, change))

    @property
    def survival(self) -> float:
        """Share of the change that is left, along its own direction; 1 is all of it, 0 nothing."""
        return self.kept / self.wanted if self.wanted else 1.0


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the file."""

    name: str
    source: str
    """The base model's weight."""
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    pair: LoraPair | None = None


@dataclass
class Conversion:
    """Writes the weights of one model."""

    config: Any
    family: Family
    rounding: Rounding = field(default_factory=Rounding)

    def names(self) -> gguf.TensorNameMap:
        """Return the mapping from transformers' names of tensors to GGUF's."""
        return gguf.get_tensor_name_map(self.family.architecture, self.config.num_hidden_layers)

    def arrange(self, source: str, array: Array) -> Array:
        """Return a weight, or the upper half of its change, in the row order that llama.cpp expects."""
        if not self.family.permutes_heads or not source.rpartition(".")[0].endswith(("q_proj", "k_proj")):
            return array
        return interleave_halves(array, head_size(self.config))

    def stored(self, tensor: _Tensor, weights: BaseWeights) -> Array:
        """Return the content of a tensor, and count how much of the adapter's change it keeps."""
        weight = weights.read(tensor.source)
        if len(tensor.shape) == 1:
            offset = self.family.norm_offset if tensor.source.endswith("norm.weight") else 0.0
            return convert(self.arrange(tensor.source, weight + np.float32(offset)), tensor.kind)
        change = None if tensor.pair is None else tensor.pair.delta()
        merged = weight if change is None else weight + change
        written = convert(self.arrange(tensor.source, merged), tensor.kind)
        if change is not None:
            arranged = self.arrange(tensor.source, weight), self.arrange(tensor.source, change)
            self.rounding.add(*arranged, gguf.quants.dequantize(written, tensor.kind))
        return written


def interleave_halves(array: Array, head: int) -> Array:
    """Return rows [heads * head, ...] with the two halves of each head interleaved: 0, h/2, 1, h/2 + 1, ...

    The inverse of transformers' conversion of the original Llama weights.
    """
    halves = array.reshape(-1, 2, head // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def read_model_config(directory: Path) -> Any:
    """Return the config of a text model. Raises `ExportRefused` if transformers cannot read it."""
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ExportRefused(
            "export_unsupported_architecture", f"The config of {directory.name} cannot be read: {error}"
        ) from error


def write_model(
    base: Path,
    adapter: Mapping[str, LoraPair],
    target: Path,
    name: str,
    quantization: Quantization | None,
    progress: Callable[[float], None],
) -> Rounding:
    """Write the GGUF file `target`, and return how much of the adapter's change its weights keep.

    `quantization` None stores float32. `name` is shown by llama.cpp. `progress` gets the share of the weights that is
    written. Raises `ExportRefused` for a model that llama.cpp does not run as transformers does.
    """
    config = read_model_config(base)
    conversion = Conversion(config, family_of(config))
    writer = GGUFWriter(target, gguf.MODEL_ARCH_NAMES[conversion.family.architecture])
    writer.add_name(name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if quantization is None else FILE_TYPES[quantization])
    add_hyperparameters(writer, config, conversion.family)
    tokenizer = chat.load(base)
    with BaseWeights(base) as weights:
        read_vocabulary(tokenizer, weights.shape(_EMBEDDINGS)[0]).add_to(writer)
        add_special_tokens(writer, tokenizer)
        plan = list(_plan(conversion, weights, adapter, quantization))
        factors = rope_factors(config)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        for tensor in plan:
            size = stored_bytes(tensor.shape, tensor.kind)
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for done, tensor in enumerate(plan):
            writer.write_tensor_data(conversion.stored(tensor, weights))
            progress((done + 1) / len(plan))
    writer.close()
    return conversion.rounding


def _plan(
    conversion: Conversion, weights: BaseWeights, adapter: Mapping[str, LoraPair], quantization: Quantization | None
) -> Iterator[_Tensor]:
    """Yield the tensors to write. Raises `ExportRefused` if a weight or a change has no place in the file."""
    sources = dict(_sources(conversion.config, weights, adapter))
    if strangers := adapter.keys() - sources.keys():
        raise ExportRefused(
            "export_refused", f"The adapter does not fit the base model: it changes {min(strangers)}, which is missing."
        )
    names, layers = conversion.names(), conversion.config.num_hidden_layers
    is_tied = _HEAD not in sources
    for label, source in sources.items():
        name = names.get_name(label, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ExportRefused(
                "export_unsupported_architecture",
                f"The weight {label} has no counterpart in GGUF. Export the model as `merged` instead.",
            )
        shape = weights.shape(source)
        kind = GGMLQuantizationType.F32 if quantization is None else choose(name, shape, layers, is_tied, quantization)
        yield _Tensor(name, source, shape, kind, adapter.get(label))


def _sources(config: Any, weights: BaseWeights, adapter: Mapping[str, LoraPair]) -> Iterator[tuple[str, str]]:
    """Yield the name of each weight to write, and the stored weight it comes from.

    Embeddings and output head share one weight in some models; an adapter on one of them separates the two.
    """
    for name in weights:
        if name != _HEAD:
            yield name, name
    if not config.tie_word_embeddings:
        yield _HEAD, _HEAD if _HEAD in weights else _EMBEDDINGS
    elif adapter.keys() & {_HEAD, _EMBEDDINGS}:
        yield _HEAD, _EMBEDDINGS
