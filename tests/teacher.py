"""A teacher: a real chat completion server whose responses a test defines, and which records its requests."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.http_server import Received, Reply, http_server

Answer = Callable[[str, dict[str, Any]], Reply]
"""(last user message, body of the request) -> response."""


@dataclass
class Teacher:
    """A running server and the requests it received."""

    url: str = ""
    requests: list[Received] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        with self.lock:
            return [json.loads(request.body) for request in self.requests]

    @property
    def questions(self) -> Counter[str]:
        """Number of requests for each prompt."""
        return Counter(body["messages"][-1]["content"] for body in self.bodies)


def chat_completion(*texts: str, finish: str = "stop", **more: Any) -> Reply:
    """Build a chat completion. By default, `usage` counts 10 prompt tokens and 2 completion tokens per text."""
    choices = [
        {"index": index, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 10 * len(texts), "completion_tokens": 2 * len(texts)}
    return Reply(json.dumps({"model": "teacher-2026", "choices": choices, "usage": usage, **more}).encode())


def answer_sums(question: str, body: dict[str, Any]) -> Reply:
    """Return the sum, followed by wrong sums up to the requested number of answers."""
    total = sum(int(number) for number in question.rstrip("=").split("+"))
    return chat_completion(*[str(total + number) for number in range(body.get("n", 1))])


@contextmanager
def teacher(answer: Answer = answer_sums) -> Iterator[Teacher]:
    """Run a teacher on a free port."""
    server = Teacher()

    def reply(request: Received) -> Reply:
        body = json.loads(request.body)
        with server.lock:
            server.requests.append(request)
        return answer(body["messages"][-1]["content"], body)

    with http_server(reply) as url:
        server.url = f"{url}/v1"
        yield server
