"""`python -m worker.training.convert SOURCE TARGET`: converts a transformers checkpoint or GGUF file to bf16
safetensors."""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from worker.training.base_model import model_class


def convert(source: Path, target: Path) -> None:
    """Writes config, tokenizer and bf16 safetensors of `source` (directory or .gguf file) into `target`.

    GGUF weights are dequantised, and the quantization_config is removed from the config, since it no longer applies.
    """
    options = {"gguf_file": source.name} if source.is_file() else {}
    directory = source.parent if source.is_file() else source
    tokenizer = AutoTokenizer.from_pretrained(directory, **options)
    loader = AutoModelForCausalLM if options else model_class(directory)
    model: Any = loader.from_pretrained(directory, dtype=torch.bfloat16, **options)
    # save_pretrained rejects a model that was loaded by a quantiser, so move the weights to a model without one.
    if getattr(model.config, "quantization_config", None) is not None:
        weights = model.state_dict()
        del model.config.quantization_config
        with torch.device("meta"):
            model = loader.from_config(model.config, dtype=torch.bfloat16)
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
    if not options:
        for path in source.glob("*processor_config.json"):  # how images become tokens, for a vision-language model
            shutil.copyfile(path, target / path.name)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
