"""A teacher: a real chat completion server that answers as a test says, and remembers what it was asked."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.http_server import Received, Reply, http_server

Answer = Callable[[str, dict[str, Any]], Reply]
"""(the last user message, the request's body) -> what it is answered."""


@dataclass
class Teacher:
    """What was asked."""

    url: str = ""
    requests: list[Received] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        with self.lock:
            return [json.loads(one.body) for one in self.requests]

    @property
    def questions(self) -> Counter[str]:
        """How many requests there were about each prompt."""
        return Counter(body["messages"][-1]["content"] for body in self.bodies)


def said(*texts: str, finish: str = "stop", **more: Any) -> Reply:
    """A completion; each answer costs 10 tokens to read and 2 to write unless `usage` says otherwise."""
    choices = [
        {"index": index, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 10 * len(texts), "completion_tokens": 2 * len(texts)}
    return Reply(json.dumps({"model": "teacher-2026", "choices": choices, "usage": usage, **more}).encode())


def adds(question: str, body: dict[str, Any]) -> Reply:
    """The sum, and as many wrong ones as are wanted besides."""
    total = sum(int(number) for number in question.rstrip("=").split("+"))
    return said(*[str(total + number) for number in range(body.get("n", 1))])


@contextmanager
def teacher(answer: Answer = adds) -> Iterator[Teacher]:
    """One that runs."""
    asked = Teacher()

    def reply(request: Received) -> Reply:
        body = json.loads(request.body)
        with asked.lock:
            asked.requests.append(request)
        return answer(body["messages"][-1]["content"], body)

    with http_server(reply) as url:
        asked.url = f"{url}/v1"
        yield asked
