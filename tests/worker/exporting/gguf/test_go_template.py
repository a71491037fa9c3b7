"""Chat templates translated for Ollama: published templates, and what cannot be translated."""

from collections.abc import Callable

import pytest

from app.core.chat import tokenizer as chat
from app.core.spec.export import ExportRefused
from tests import chat_templates
from tests.worker.exporting.gguf.conftest import TinyModel
from worker.exporting.gguf.go_template import Delimiters, differences, find_delimiters, without_bos

REFUSED = {"axolotl/mistral_v2v3", "axolotl/mistral_v3_tekken", "axolotl/pixtral"}
"""Templates that move the system message to the last question."""


def test_chatml_template_is_exact(tiny_model: Callable[[str], TinyModel]) -> None:
    found = find_delimiters(chat.load(tiny_model("smollm2").base))
    assert found == Delimiters(
        start="<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n",
        system=("<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n"),
        answer="<|im_end|>\n<|im_start|>assistant\n",
        question="<|im_end|>\n<|im_start|>user\n",
        end="<|im_end|>\n<|im_start|>assistant\n",
    )
    assert found.go_template() == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n{{ else }}<|im_start|>system\n"
        'Be kind.<|im_end|>\n<|im_start|>user\n{{ end }}{{ $previous := "" }}{{ range .Messages }}'
        '{{ if eq .Role "user" }}{{ if eq $previous "assistant" }}<|im_end|>\n<|im_start|>user\n{{ end }}{{ .Content }}'
        '{{ $previous = .Role }}{{ else if eq .Role "assistant" }}<|im_end|>\n<|im_start|>assistant\n{{ .Content }}'
        '{{ $previous = .Role }}{{ end }}{{ end }}{{ if ne $previous "assistant" }}<|im_end|>\n<|im_start|>assistant\n'
        "{{ end }}"
    )


def test_first_token_is_left_to_llama_cpp(tiny_model: Callable[[str], TinyModel]) -> None:
    tokenizer = chat.load(tiny_model("gemma3").base)
    found = find_delimiters(tokenizer)
    assert found.system == ("<bos><start_of_turn>user\n", "\n\n")
    bare = without_bos(found, tokenizer)
    assert (bare.start, bare.system) == ("<start_of_turn>user\n", ("<start_of_turn>user\n", "\n\n"))
    assert "spaces around" in differences(tokenizer, found)[1]
    twice = chat.load(tiny_model("smollm2").base)
    assert without_bos(find_delimiters(twice), twice) == find_delimiters(twice)


def test_published_templates_are_translated() -> None:
    refused = set()
    for name in chat_templates.SOURCES:
        try:
            find_delimiters(chat_templates.tokenizer(name))
        except ExportRefused:
            refused.add(name)
    assert refused == REFUSED


@pytest.mark.parametrize(("name", "noted"), [("trl/llama3_2", "current date"), ("trl/gemma", "no system message")])
def test_what_ollama_does_otherwise_is_noted(name: str, noted: str) -> None:
    tokenizer = chat_templates.tokenizer(name)
    assert noted in " ".join(differences(tokenizer, find_delimiters(tokenizer)))


def test_braces_in_a_template_are_escaped() -> None:
    template = Delimiters(start="{{x", system=None, answer="a", question="q", end="e").go_template()
    assert template.startswith('{{ "{{" }}x{{ $previous := "" }}')


def test_template_that_numbers_turns_is_refused(tiny_model: Callable[[str], TinyModel]) -> None:
    source = "{% for m in messages %}[{{ loop.index }}]{{ m['content'] }}<|im_end|>{% endfor %}"
    known = chat.load(tiny_model("smollm2").base)
    tokenizer = chat.ChatTokenizer(known.backend, {"default": source}, {"eos_token": "<|im_end|>"})
    with pytest.raises(ExportRefused, match="a chat of 5 messages would become") as refused:
        find_delimiters(tokenizer)
    assert refused.value.code == "export_unsupported_template"
