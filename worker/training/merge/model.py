"""`python -m worker.training.merge ADAPTER BASE TARGET`: merges an adapter into its base model.

The result is one plain transformers model. The target directory is complete or absent: the written model is loaded
again and compared with the unmerged model before it is renamed into place. Progress goes to standard error, findings to
standard output.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worker.training.base_model import model_class
from worker.training.merge.layers import Rounding, layers_of, merge_layer
from worker.training.merge.report import Comparison, Merged, MergeRefused, card
from worker.training.self_check import ordinary_tokens

_KEPT: Final = (
    *(
        "tokenizer*",
        "vocab*",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template*",
        "*processor_config.json",
        "*.model",
    ),
    *("LICENSE*", "NOTICE*"),
)
"""Files of the base model that are copied byte for byte: a tokenizer that is loaded and saved again may differ."""

_PROBES: Final = 4
_PROBE_TOKENS: Final = 32
"""Compared positions of a probe: a large vocabulary has 0.6 MB of log-probabilities at each."""


def merge(
    adapter: Path,
    base: Path,
    target: Path,
    name: str,
    progress: Callable[[str], None],
    prompts: Sequence[Sequence[int]] = (),
) -> Merged:
    """Writes the merged model into the new directory `target`; `name` is the title of its model card.

    The models are compared on fixed sequences from the whole vocabulary, and on the token ids of `prompts`.

    Raises `MergeRefused` for a quantised base model, an adapter of another model, an existing target, and a result
    whose log-probabilities differ from those of the unmerged model.
    """
    _check_directories(adapter, base, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _staging(target) as directory:
        progress(f"Loading {base.name} and its adapter")
        model = load_unmerged(adapter, base)
        causal: Any = model.get_base_model()
        dtype = causal.dtype
        probes = [*probe_ids(ordinary_tokens(causal.config)), *map(torch.tensor, prompts)]
        unmerged = _on_probes(model, probes)
        with model.disable_adapter():
            without = _on_probes(model, probes)
        progress("Merging")
        rounding = _merge_into(model, directory)
        _copy_tokenizer(base, directory)
        del model, causal  # one model in memory at a time
        progress("Comparing with the unmerged model")
        comparison = Comparison.of(_on_probes(load(directory), probes), unmerged, without, dtype)
        comparison.check()
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        written_base = config.get("base_model_name_or_path") or base.name
        merged = Merged(name, written_base, loader_name(base), dtype, rounding, comparison)
        (directory / "README.md").write_text(card(merged), encoding="utf-8")
        directory.rename(target)
    return merged


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """Yields a path next to `target` to write to. Deletes what is left there at the end, also after SIGTERM."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:

        def on_sigterm(*_: object) -> None:
            shutil.rmtree(temporary, ignore_errors=True)
            os._exit(128 + signal.SIGTERM)  # sys.exit would not do: some libraries catch SystemExit

        before = signal.signal(signal.SIGTERM, on_sigterm)
        try:
            yield Path(temporary) / "merged"
        finally:
            signal.signal(signal.SIGTERM, before)


def _check_directories(adapter: Path, base: Path, target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise MergeRefused(f"{target} exists already: choose a new directory.")
    for directory, needed in ((base, "config.json"), (adapter, "adapter_config.json")):
        if not (directory / needed).is_file():
            raise MergeRefused(f"{directory} has no {needed}.")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if quantised := config.get("quantization_config"):
        raise MergeRefused(
            f"{base.name} is quantised ({quantised.get('quant_method', 'unknown method')}), and rounding to so "
            "few bits would lose most of the adapter: merge into the full-precision model that it was made from, then "
            "quantise the result."
        )


def loader_name(directory: Path) -> str:
    """Returns the name of transformers' auto class that loads the model of `directory`."""
    return str(model_class(directory).__name__)


def load(directory: Path) -> Any:
    """Loads the model of `directory` in its own dtype with plain transformers."""
    return model_class(directory).from_pretrained(directory, dtype="auto", local_files_only=True).eval()


def load_unmerged(adapter: Path, base: Path) -> PeftModel:
    """Loads base model and adapter with plain PEFT. Raises `MergeRefused` if an adapter tensor has no counterpart."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about missing keys, which raise below
            model = PeftModel.from_pretrained(load(base), str(adapter))
        with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
            stored = set(file.keys())
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise MergeRefused(f"The adapter does not fit {base.name}: {error}") from error
    if unmatched := stored ^ set(get_peft_model_state_dict(model, save_embedding_layers=False)):
        raise MergeRefused(f"The adapter does not fit {base.name}: {len(unmatched)} tensors have no counterpart in it.")
    return model.eval()


def _merge_into(model: PeftModel, directory: Path) -> Rounding:
    """Merges layer by layer and writes weights and config."""
    rounding = Rounding()
    for label, layer in layers_of(model).items():
        merge_layer(label, layer, rounding)
    plain: Any = model.unload()
    inputs, outputs = plain.get_input_embeddings(), plain.get_output_embeddings()
    if outputs is None or inputs.weight is not outputs.weight:  # an adapter on the embeddings only unties them
        plain.config.tie_word_embeddings = False
    plain.save_pretrained(directory)
    return rounding


def _copy_tokenizer(base: Path, directory: Path) -> None:
    for pattern in _KEPT:
        for path in base.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, directory / path.name)


def probe_ids(tokens_V: Tensor) -> Tensor:
    """Returns fixed sequences [B, T] of the given tokens."""
    return tokens_V[torch.randint(len(tokens_V), (_PROBES, _PROBE_TOKENS), generator=torch.Generator().manual_seed(0))]


@torch.no_grad()
def logprobs(model: Any, ids_B_T: Tensor) -> Tensor:
    """Returns the log-probabilities [B, T, V] of every token at every position, in fp32."""
    logits: Tensor = model(input_ids=ids_B_T, use_cache=False).logits
    return logits.float().log_softmax(-1)


def _on_probes(model: Any, probes: Sequence[Tensor]) -> Tensor:
    """Returns the log-probabilities [N, V] at the last positions of all probes [T], N in total."""
    return torch.cat([logprobs(model, ids_T[None])[0, -_PROBE_TOKENS:] for ids_T in probes])


def main() -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker.training.merge", description=__doc__)
    for name in ("adapter", "base", "target"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--name", default=None, help="title of the model card; the target's name by default")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    name = arguments.name or arguments.target.name
    try:
        merged = merge(arguments.adapter, arguments.base, arguments.target, name, _print_progress)
    except (MergeRefused, OSError, SafetensorError) as error:
        _print_progress(f"error: {error}")
        return 1
    print("\n".join(merged.lines()))  # noqa: T201 - a program's output
    return 0


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a program's output
