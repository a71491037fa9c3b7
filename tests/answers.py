"""Answers as the trainer encodes them."""

from app.core.chat.encoding import RowRules, Turn, turn
from app.core.chat.tokenizer import ChatTokenizer

RULES = RowRules(turns="all", max_length=2048)


def answer_turn(chat: ChatTokenizer, text: str, question: str = "2+2=") -> Turn:
    """Return the answer `text` to a question."""
    prompt = chat.prompt([{"role": "user", "content": question}])
    return turn(chat, prompt, {"role": "assistant", "content": text}, RULES)


def answer_ids(chat: ChatTokenizer, text: str) -> tuple[int, ...]:
    """Return the tokens that are trained for an answer, its end included."""
    return answer_turn(chat, text).ids
