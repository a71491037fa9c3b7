"""The tokens of an answer with every published chat template: what the model would write after the prompt."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import Answer, ChatTokenizer
from tests.chat_templates import BOS, EOS, SOURCES, as_read, tokenizer
from tests.core.chat.test_templates import QUESTION, TOOLS, theirs

ANSWER = {"role": "assistant", "content": "It is 4."}
CALL = {"id": "call00001", "type": "function", "function": {"name": "find_harbour", "arguments": {"town": "Oban"}}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
OPENS_THOUGHT = ("<think>\n", "<think>\n\n")


def decoded(chat: ChatTokenizer, answer: Answer) -> str:
    return str(chat.backend.decode(list(answer.ids), skip_special_tokens=False))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("history", [[QUESTION], [QUESTION, ANSWER, QUESTION]], ids=["first", "second"])
def test_trained_text_is_one_rendering_minus_the_other(name: str, history: list[dict[str, Any]]) -> None:
    chat = tokenizer(name)
    prompt = chat.prompt(history)
    answer = chat.answer(prompt, ANSWER)
    assert decoded(chat, answer) == answer.text
    assert [token in chat.end_ids for token in answer.ids].count(True) == 1
    assert answer.ids[-1] in chat.end_ids
    assert prompt.text == theirs(SOURCES[name], as_read(name, history), None, for_answer=True)
    whole = theirs(SOURCES[name], as_read(name, [*history, ANSWER]), None, for_answer=False)
    assert whole is not None
    body = answer.text.removesuffix(chat.backend.id_to_token(answer.ids[-1]) or "")
    if whole.startswith(prompt.text):
        assert whole.startswith(prompt.text + body)
    elif prompt.text.endswith(OPENS_THOUGHT):  # the history has no thoughts: the model has to close the one it opened
        thoughts, _, rest = body.partition("</think>")
        assert thoughts in ("", "\n")
        assert rest.lstrip("\n") == ANSWER["content"]
    else:  # the prompt ends with an empty thought, which the history leaves out
        assert body == ANSWER["content"]


@pytest.mark.parametrize("name", SOURCES)
def test_answer_is_written_once_and_ends(name: str) -> None:
    """In every family the text after the thoughts is the answer, then the end."""
    chat = tokenizer(name)
    answer = chat.answer(chat.prompt([QUESTION]), ANSWER)
    after = str(chat.backend.decode(list(answer.ids[answer.content_start : -1]), skip_special_tokens=False))
    assert after == ANSWER["content"]


@pytest.mark.parametrize("name", SOURCES)
def test_thoughts_are_trained_or_reported(name: str) -> None:
    chat = tokenizer(name)
    answer = chat.answer(chat.prompt([QUESTION]), {**ANSWER, "reasoning_content": "Two and two."})
    if answer.unwritten:
        assert answer.unwritten == ("thoughts",)
        assert answer.text == chat.answer(chat.prompt([QUESTION]), ANSWER).text
    else:
        thoughts, _, rest = answer.text.partition("Two and two.")
        assert rest
        assert ANSWER["content"] not in thoughts
        assert ANSWER["content"] in rest


@pytest.mark.parametrize("name", SOURCES)
def test_tool_calls_are_trained_or_refused(name: str) -> None:
    chat = tokenizer(name)
    prompt = chat.prompt([QUESTION], TOOLS)
    try:
        answer = chat.answer(prompt, CALLING)
    except TemplateRefused as refused:
        is_named = "find_harbour" in refused.message or "rejects the messages" in refused.message
    else:
        is_named = "find_harbour" in answer.text
    assert is_named


@pytest.mark.parametrize(
    "name", ["trl/qwen2_5", "trl/llama3_1", "trl/gptoss", "trl/deepseekv3", "trl/qwen3_6", "trl/glm4moe"]
)
def test_arguments_are_written_once(name: str) -> None:
    chat = tokenizer(name)
    text = chat.answer(chat.prompt([QUESTION], TOOLS), CALLING).text
    assert "Oban" in text
    assert '\\"town' not in text
    assert "'town'" not in text


def test_every_kind_of_template_is_seen() -> None:
    """The cases above would pass if no template wrote anything before an answer."""
    before = {name: tokenizer(name).answer(tokenizer(name).prompt([QUESTION]), ANSWER).text[:8] for name in SOURCES}
    assert before["trl/qwen3"] == "<think>\n"
    assert before["trl/qwen3_5_think"] == "\n</think"
    assert before["trl/gptoss"] == "<|channe"
    assert before["trl/deepseek_r1_distill"] == "\n</think"
    assert before["trl/qwen3_5_nothink"] == "It is 4."
    assert before["axolotl/mistral_v1"] == " It is 4"


def test_variables_choose_the_form() -> None:
    """With `enable_thinking` off, Qwen3's prompt ends with an empty thought and the answer follows it."""
    chat = tokenizer("trl/qwen3").using({"enable_thinking": False})
    prompt = chat.prompt([QUESTION])
    assert prompt.text.endswith("<think>\n\n</think>\n\n")
    assert chat.answer(prompt, ANSWER).text == "It is 4.<|im_end|>"
    assert tokenizer("trl/qwen3").prompt([QUESTION]).text.endswith("assistant\n")


def test_declared_end_of_the_next_turn() -> None:
    """GLM writes nothing after an answer: the model ends it by opening the next turn."""
    plain = tokenizer("trl/glm4moe_training")
    ends = [plain.backend.token_to_id(token) or 0 for token in ("<|user|>", "<|observation|>")]
    sources = {"default": SOURCES["trl/glm4moe_training"]}
    chat = ChatTokenizer(plain.backend, sources, {"bos_token": BOS, "eos_token": EOS}, ends)
    assert chat.answer(chat.prompt([QUESTION]), ANSWER).text.endswith("It is 4.<|user|>")
    assert chat.answer(chat.prompt([QUESTION], TOOLS), CALLING).text.endswith("</tool_call><|observation|>")
    assert chat.end_ids >= set(ends)


special_text = st.lists(
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<think>", "</think>", "im_end", "4", "|", "\n", " ", "é"]),
    min_size=1,
    max_size=6,
).map("".join)


@given(
    special_text, st.none() | special_text, st.sampled_from(["trl/qwen2_5", "trl/llama3", "trl/qwen3_instruct_2507"])
)
def test_special_tokens_in_an_answer_stay_text(content: str, question: str | None, name: str) -> None:
    if not content.strip():
        return
    chat = tokenizer(name)
    prompt = chat.prompt([QUESTION, ANSWER, {"role": "user", "content": question}] if question else [QUESTION])
    answer = chat.answer(prompt, {"role": "assistant", "content": content})
    assert [token in chat.end_ids for token in answer.ids].index(True) == len(answer.ids) - 1
    end = str(chat.backend.id_to_token(answer.ids[-1]))
    assert decoded(chat, answer) in (content + end, content.strip() + end, content.lstrip("\n") + end)
    special = {index for index, token in chat.backend.get_added_tokens_decoder().items() if token.special}
    assert not special & set(answer.ids[:-1])


@pytest.mark.parametrize("content", ["<think>\nhmm\n</think>\n\nyes", "<think>hmm</think>yes"])
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("name", ["qwen3", "qwen3_6", "glm4moe", "deepseekv3", "deepseek_r1_distill"])
def test_thoughts_in_text_like_thoughts_apart(name: str, thinking: bool, content: str) -> None:
    chat = tokenizer(f"trl/{name}").using({"enable_thinking": thinking})
    prompt = chat.prompt([{"role": "user", "content": "why?"}])
    got = chat.answer(prompt, {"role": "assistant", "content": content})
    want = chat.answer(prompt, {"role": "assistant", "content": "yes", "reasoning_content": "hmm"})
    assert (got.ids, got.content_start, got.unwritten) == (want.ids, want.content_start, want.unwritten)


def test_thoughts_in_text_kept_as_text() -> None:
    chat = tokenizer("trl/llama3_1")
    content = "<think>hmm</think>yes"
    answer = chat.answer(chat.prompt([{"role": "user", "content": "why?"}]), {"role": "assistant", "content": content})
    assert answer.text == f"{content}<|eot_id|>"


@pytest.mark.parametrize("name", SOURCES)
def test_text_around_thoughts_is_trained_or_reported(name: str) -> None:
    """Templates of reasoning models keep only what follows the thoughts."""
    chat = tokenizer(name)
    written = {"role": "assistant", "content": "First words. <think>hmm</think> last words."}
    answer = chat.answer(chat.prompt([QUESTION]), written)
    assert "text" in answer.unwritten or "First words." in answer.text
    assert "last words." in answer.text


def test_unread_variables_are_known() -> None:
    chat = tokenizer("trl/qwen3").using({"enable_thinking": False, "enable_thinkin": True})
    assert chat.templates.unread_variables == ("enable_thinkin",)
