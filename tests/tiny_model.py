"""Builds a tiny random Llama with a character-level chat tokenizer, as real files, in a second."""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n", "\t"]

SENTENCEPIECE = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}


def character_tokenizer() -> Tokenizer:
    """Return a tokenizer with one token per character."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))  # noqa: S106 - a token
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def write_tokenizer(directory: Path) -> None:
    """Write the tokenizer and chat template of the tiny model, without a model."""
    character_tokenizer().save(str(directory / "tokenizer.json"))
    config = {
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": ["<|im_start|>", "<|endoftext|>"],
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def build(
    directory: Path, *, hidden: int = 32, layers: int = 2, seed: int = 0, spread: float = 0.02, context: int = 512
) -> Path:
    """Write config, tokenizer and random fp32 safetensors to `directory`; return it.

    Weights have the standard deviation `spread`. With 0.3, even the tiny adapter can learn something.
    """
    import torch  # noqa: PLC0415 - only tests that need a model import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: PLC0415

    tokenizer = character_tokenizer()
    vocabulary = tokenizer.get_vocab()
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106 - a token
        pad_token="<|pad|>",  # noqa: S106 - a token
        additional_special_tokens=["<|im_start|>", "<|endoftext|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=spread,
        bos_token_id=vocabulary["<|im_start|>"],
        eos_token_id=vocabulary["<|im_end|>"],
        pad_token_id=vocabulary["<|pad|>"],
    )
    directory.mkdir(parents=True, exist_ok=True)
    model: Any = LlamaForCausalLM(config)
    model.to(torch.float32).save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


def variant(directory: Path, base: Path, template: str, context: int) -> Path:
    """Write a model with the weights of `base`, another chat template and another context length; return it.

    Its tokenizer decodes as those of published models do; llguidance refuses others.
    """
    shutil.copytree(base, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}))
    (directory / "chat_template.jinja").write_text(template)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer | {"decoder": SENTENCEPIECE}))
    return directory


def write_rows(path: Path, count: int, *, start: int = 0) -> Path:
    """Write `count` addition rows in the service's format; `start` separates training from held-out rows."""
    with path.open("w", encoding="utf-8") as out:
        for number in range(start, start + count):
            a, b = number % 9, (number // 9) % 9
            row = {
                "messages": [
                    {"role": "user", "content": f"{a}+{b}="},
                    {"role": "assistant", "content": str(a + b)},
                ],
                "teacher_responses": [str(a + b), str(a + b + 1), "?"],
                "reference_answer": str(a + b),
            }
            out.write(json.dumps(row) + "\n")
    return path


def write_pairs(path: Path, count: int, *, start: int = 0) -> Path:
    """Write `count` additions with a right and a wrong answer, in OpenAI's and in TRL's form by turns."""
    with path.open("w", encoding="utf-8") as out:
        for number in range(start, start + count):
            a, b = number % 9, (number // 9) % 9
            right, wrong = str(a + b), f"it is {a + b + 1}"
            question = {"role": "user", "content": f"{a}+{b}="}
            openais = {
                "input": {"messages": [question], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [{"role": "assistant", "content": right}],
                "non_preferred_output": [{"role": "assistant", "content": wrong}],
            }
            trls = {"prompt": question["content"], "chosen": right, "rejected": wrong}
            out.write(json.dumps(trls if number % 2 else openais) + "\n")
    return path
