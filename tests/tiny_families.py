"""Builds tiny random models of the families that GGUF exports support, each with a tokenizer of its kind."""

import json
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

_QWEN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3: Final = _QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_CHATML: Final = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nBe kind."
    "<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA_CHAT: Final = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA_CHAT: Final = (
    "{{ bos_token }}{% set first = '' %}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "<start_of_turn>{{ role }}\n{{ first if loop.first else '' }}{{ message['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_CORPUS: Final = (
    "The quick brown fox jumps over the lazy dog. It's what we'll see, I'VE 7,000 reasons and 1234.56 more!",
    "What is 17 + 48? Answer with the number only. Name three primary colours. Is a whale a fish?",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \u4e2d\u6587 \ud55c\uad6d\uc5b4 caf\u00e9",
    "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u0645\u0631\u062d\u0628\u0627",
    "def square(x):\n    return x * x\n\n\nprint(square(3))  # nine\n",
)
_SHAPE: Final = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}


def _byte_level(steps: list[Any], specials: list[str], *, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in specials])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return tokenizer


def _sentencepiece(specials: list[str]) -> Tokenizer:
    """Return a tokenizer like Gemma's: BPE over characters, bytes for unknown ones, no pre-tokenizer."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    # SentencePiece never joins line breaks or runs of spaces with letters.
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|\u2581?[^\n\u2581]*"), "isolated")
    trained.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=260, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    reserved = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: index for index, token in enumerate([*reserved, *model["vocab"], "\u2581\u2581"])}
    merges = [("\u2581", "\u2581"), *map(tuple, model["merges"])]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False) for text in ("<pad>", "<eos>", "<bos>", *specials)]
    )
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("\u2581\u2581", normalized=False)])
    return tokenizer


def _bytes(use_regex: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _chatml_tokens(kind: str) -> tuple[Tokenizer, dict[str, Any]]:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    steps = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True), _bytes(True)],
        "gpt-2": [_bytes(True)],
        "qwen2": [_split(_QWEN), _bytes(False)],
    }[kind]
    normalizer = normalizers.NFC() if kind == "qwen2" else None
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": _CHATML}
    if kind == "smollm":
        config["bos_token"] = "<|im_start|>"  # noqa: S105 - as SmolLM2 declares it
    return _byte_level(steps, specials, normalizer=normalizer), config


def _llama_tokens() -> tuple[Tokenizer, dict[str, Any]]:
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = _byte_level([_split(_LLAMA3), _bytes(False)], specials)
    described = json.loads(tokenizer.to_str())
    described["model"]["ignore_merges"] = True
    config = {"bos_token": specials[0], "eos_token": "<|eot_id|>", "chat_template": _LLAMA_CHAT}
    return Tokenizer.from_str(json.dumps(described)), config


def _gemma_tokens() -> tuple[Tokenizer, dict[str, Any]]:
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "chat_template": _GEMMA_CHAT}
    return _sentencepiece(["<start_of_turn>", "<end_of_turn>"]), config


_LLAMA3_ROPE: Final = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_WINDOW: Final = {"sliding_window": 8, "query_pre_attn_scalar": 64}
_FAMILIES: Final[dict[str, tuple[str, dict[str, Any], Any]]] = {
    "smollm2": ("Llama", {"tie_word_embeddings": True}, lambda: _chatml_tokens("smollm")),
    "llama3": ("Llama", {"rope_parameters": _LLAMA3_ROPE, "attention_bias": True}, _llama_tokens),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4, "tie_word_embeddings": True}, _llama_tokens),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}, lambda: _chatml_tokens("qwen2")),
    "qwen3": ("Qwen3", {}, lambda: _chatml_tokens("qwen2")),
    "gemma": ("Gemma", {}, _gemma_tokens),
    "gemma2": ("Gemma2", _WINDOW, _gemma_tokens),
    "gemma3": ("Gemma3", {**_WINDOW, "num_hidden_layers": 6}, _gemma_tokens),
}
FAMILIES: Final = tuple(_FAMILIES)


def build(directory: Path, family: str, **settings: Any) -> Path:
    """Write a random fp32 model of `family` with its tokenizer; return the directory.

    Norms and biases are random, too: an export that forgets one of them differs. `settings` replace the config's.
    """
    import torch  # noqa: PLC0415 - only tests that need a model import torch
    import transformers  # noqa: PLC0415

    name, own, make_tokenizer = _FAMILIES[family]
    tokenizer, described = make_tokenizer()
    size = tokenizer.get_vocab_size() + 3  # larger than the vocabulary, as published models are
    ids = {
        f"{role}_token_id": tokenizer.token_to_id(described.get(f"{role}_token", "")) for role in ("bos", "eos", "pad")
    }
    suffix = "TextConfig" if name == "Gemma3" else "Config"
    config = getattr(transformers, f"{name}{suffix}")(**{**_SHAPE, **own, **ids, "vocab_size": size, **settings})
    torch.manual_seed(0)
    model: Any = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(described))
    return directory


def add_adapter(base: Path, directory: Path, *, scale: float = 0.05, **settings: Any) -> Path:
    """Write a random LoRA adapter for all linear layers of `base`; return its directory."""
    import torch  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    torch.manual_seed(1)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * scale)
    model.save_pretrained(str(directory), save_embedding_layers=False)
    return directory
