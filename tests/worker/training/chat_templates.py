"""Tokenizers with the chat templates that instruct models ship, trained in code on a few sentences."""

from dataclasses import dataclass
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from app.core.chat.tokenizer import ChatTokenizer

CORPUS: Final = [
    "What is the sum of twelve and thirty? The answer is 42.",
    "user assistant system model",
    "Vous êtes très gentille, naïve Zoë. 日本語のテキスト",
    "def add(a, b):\n    return a + b\n",
]


@dataclass(frozen=True)
class Family:
    """How one family of models writes a chat."""

    template: str
    end: str
    """Ends an assistant's turn."""
    bos: str | None
    eos: str
    others: tuple[str, ...] = ()
    sentencepiece: bool = False


CHATML: Final = Family(
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    end="<|im_end|>",
    bos=None,
    eos="<|im_end|>",
    others=("<|im_start|>", "<|endoftext|>"),
)
LLAMA_3: Final = Family(
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    end="<|eot_id|>",
    bos="<|begin_of_text|>",
    eos="<|end_of_text|>",
    others=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
GEMMA: Final = Family(
    "{{ bos_token }}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else "
    "message['role'] %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
    end="<end_of_turn>",
    bos="<bos>",
    eos="<eos>",
    others=("<start_of_turn>", "<end_of_turn>"),
    sentencepiece=True,
)
MISTRAL: Final = Family(
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}",
    end="</s>",
    bos="<s>",
    eos="</s>",
    sentencepiece=True,
)
PLAIN: Final = Family(
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    end="<|endoftext|>",
    bos=None,
    eos="<|endoftext|>",
)
THINKING: Final = Family(  # the prompt opens a thought that is not kept in a chat's history
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
    end="<|im_end|>",
    bos=None,
    eos="<|endoftext|>",
    others=("<|im_start|>", "<|im_end|>"),
)
FAMILIES: Final = {
    "chatml": CHATML,
    "llama-3": LLAMA_3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "plain": PLAIN,
    "thinking": THINKING,
}


def tokenizer(family: Family, *, pad: str | None = None) -> Any:
    """A trained tokenizer of the family; `pad` may be its end token, as with many base models."""
    core = _sentencepiece_like() if family.sentencepiece else _byte_level()
    special = dict.fromkeys([token for token in (family.bos, family.eos, *family.others, pad) if token is not None])
    core.add_special_tokens([AddedToken(token, special=True) for token in special])
    if family.bos is not None:  # as Llama's and Gemma's do: a plain call puts a BOS in front of everything
        core.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, core.token_to_id(family.bos))]
        )
    fast: Any = PreTrainedTokenizerFast  # untyped in transformers
    made = fast(
        tokenizer_object=core,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=pad,
        additional_special_tokens=list(family.others),
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = family.template
    return made


def chat(family: Family, *, pad: str | None = None) -> ChatTokenizer:
    """Ours, over the same vocabulary."""
    return ours(tokenizer(family, pad=pad))


def ours(raw: Any) -> ChatTokenizer:
    """What the trainer makes of a transformers tokenizer."""
    templates = {"default": raw.chat_template} if raw.chat_template else {}
    return ChatTokenizer(raw.backend_tokenizer, templates, raw.special_tokens_map)


def _byte_level() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return core


def _sentencepiece_like() -> Tokenizer:
    """Spaces as `\u2581`, unknown characters as bytes, no space put in front."""
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<0x00>"))  # noqa: S106 - a token
    core.normalizer = normalizers.Replace(" ", "\u2581")
    core.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=bytes_, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    return core
