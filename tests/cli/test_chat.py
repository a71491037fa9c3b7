"""`grouptune chat`: one question in a script, and a conversation on a terminal."""

import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import httpx
import pytest

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import ROOT, Run
from tests.waiting import eventually

SAMPLING = ("--temperature", "1.5", "--seed", "7", "--max-tokens", "8")


def chat(stack: Any, *messages: dict[str, str]) -> str:
    """Ask the API itself; return the answer and a line break."""
    body = {"model": "tiny", "messages": messages, "temperature": 1.5, "seed": 7, "max_tokens": 8}
    headers = {"authorization": f"Bearer {stack.api_key}"}
    answer = httpx.post(f"{stack.base_url}/chat/completions", json=body, headers=headers, timeout=120)
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text.removesuffix("\n") + "\n"


def test_one_question_in_a_script(grouptune: Run, stack: Any) -> None:
    expected = chat(stack, {"role": "system", "content": "Add."}, {"role": "user", "content": "2+2="})
    asked = grouptune("chat", "tiny", "2+2=", "--system", "Add.", *SAMPLING)
    assert asked.returncode == ExitCode.ok, asked.stderr
    assert asked.stdout == expected
    assert "reached the token limit" in asked.stderr
    piped = grouptune("chat", "tiny", "--system", "Add.", *SAMPLING, stdin="2+2=")
    assert piped.stdout == asked.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nope", "hi"), ExitCode.error, "`nope` does not exist"),
        (("tiny", "a" * 600), ExitCode.error, "maximum context length is 512"),
        (("tiny", " "), ExitCode.error, "The prompt is empty"),
        (("tiny", "hi", "--temperature", "3"), ExitCode.usage, "temperature"),
    ],
)
def test_errors_are_clear(grouptune: Run, words: tuple[str, ...], code: ExitCode, message: str) -> None:
    done = grouptune("chat", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in " ".join(done.stderr.split())


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, stack: Any, *words: str) -> None:
        self._master, slave = pty.openpty()
        environment = os.environ | {
            "GROUPTUNE_URL": stack.base_url,
            "GROUPTUNE_API_KEY": stack.api_key,
            "TERM": "dumb",
            "COLUMNS": "200",
        }
        command = [sys.executable, "-m", "app.cli", "chat", *words]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        os.set_blocking(self._master, False)
        self.shown = ""

    def send(self, line: str) -> None:
        self.shown = ""
        os.write(self._master, f"{line}\n".encode())

    def sees(self, pattern: str) -> None:
        """Wait until the output since the last line sent matches."""

        def is_shown() -> bool:
            with suppress(BlockingIOError):
                self.shown += os.read(self._master, 65536).decode().replace("\r", "")
            return re.search(pattern, self.shown, re.DOTALL) is not None

        eventually(is_shown)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_conversation_on_a_terminal(stack: Any) -> None:
    terminal = Terminal(stack, "tiny", *SAMPLING)
    try:
        terminal.sees("lists the commands")
        terminal.send("2+2=")
        terminal.sees(r"8 tokens, \d+ tokens/s, length\n> ")
        first = chat(stack, {"role": "user", "content": "2+2="})
        assert first in terminal.shown
        terminal.send("3+3=")
        history = [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": first.removesuffix("\n")}]
        second = chat(stack, *history, {"role": "user", "content": "3+3="})
        terminal.sees("8 tokens")
        assert second in terminal.shown
        terminal.send("/undo")
        terminal.sees("Forgotten")
        terminal.send("/system Add.")
        terminal.sees("is set")
        terminal.send("/retry")
        terminal.sees("8 tokens")
        again = chat(stack, {"role": "system", "content": "Add."}, {"role": "user", "content": "2+2="})
        assert again in terminal.shown
        terminal.send("/nope")
        terminal.sees("There is no command /nope")
        terminal.send("a" * 600)
        terminal.sees("maximum context length")
        terminal.send("/quit")
        assert terminal.process.wait(240) == ExitCode.ok
    finally:
        terminal.close()


def test_interrupt_ends_only_the_answer(stack: Any) -> None:
    terminal = Terminal(stack, "tiny", "--max-tokens", "450", "--temperature", "2")
    try:
        terminal.sees("> ")
        terminal.send("2+2=")
        terminal.sees(r"2\+2=\n.{3}")
        terminal.process.send_signal(signal.SIGINT)
        terminal.sees(r"Stopped|tokens/s")
        terminal.send('"""')
        terminal.send('two lines"""')
        terminal.sees(r"Stopped|tokens/s|Error")
        terminal.send("/reset")
        terminal.sees("The conversation is empty")
        os.write(terminal._master, b"\x04")
        assert terminal.process.wait(240) == ExitCode.ok
    finally:
        terminal.close()
