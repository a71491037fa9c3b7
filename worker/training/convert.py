"""`python -m worker.training.convert SOURCE TARGET`: any transformers checkpoint or GGUF file to bf16 safetensors."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def convert(source: Path, target: Path) -> None:
    """Writes config, tokenizer and bf16 safetensors of `source` (directory or .gguf file) into `target`.

    GGUF weights are de-quantised; the quantisation note is dropped from the config, since it is no longer true.
    """
    options = {"gguf_file": source.name} if source.is_file() else {}
    directory = source.parent if source.is_file() else source
    tokenizer = AutoTokenizer.from_pretrained(directory, **options)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16, **options)
    # A model of the same config without the loader's quantiser takes the weights; save_pretrained refuses otherwise.
    if getattr(model.config, "quantization_config", None) is not None:
        weights = model.state_dict()
        del model.config.quantization_config
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
