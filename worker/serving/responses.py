"""The bodies of completion responses, in vLLM's form."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from worker.serving.sequences import Chunk, Request, TokenLogprobs


class CompletionWriter:
    """Writes the response of one request, whole or in chunks."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.body.model,
        }
        self._started: set[int] = set()
        self._generated = 0

    def chunk(self, chunk: Chunk) -> dict[str, Any]:
        """Return the chunk of a stream."""
        self._generated += len(chunk.token_ids)
        return {**self._head, "choices": [self._choice(chunk)]}

    def usage_chunk(self) -> dict[str, Any]:
        """Return the last chunk of a stream that includes usage."""
        return {**self._head, "choices": [], "usage": self._usage()}

    def whole(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        """Return the response for all chunks of all sequences."""
        self._generated = sum(len(chunk.token_ids) for chunk in chunks)
        choices = [
            self._merged([chunk for chunk in chunks if chunk.index == index]) for index in range(self._request.body.n)
        ]
        return {**self._head, "choices": choices, "usage": self._usage()}

    def _choice(self, chunk: Chunk) -> dict[str, Any]:
        choice = {
            "index": chunk.index,
            "text": chunk.text,
            "token_ids": chunk.token_ids,
            "logprobs": None if chunk.logprobs is None else _logprobs([chunk.logprobs]),
            "finish_reason": chunk.finish_reason,
            "stop_reason": chunk.stop_reason,
        }
        if chunk.index not in self._started:
            self._started.add(chunk.index)
            choice |= self._of_prompt()
        return choice

    def _merged(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        found = [chunk.logprobs for chunk in chunks if chunk.logprobs is not None]
        return {
            "index": chunks[-1].index,
            "text": "".join(chunk.text for chunk in chunks),
            "token_ids": [token for chunk in chunks for token in chunk.token_ids],
            "logprobs": _logprobs(found) if found else None,
            "finish_reason": chunks[-1].finish_reason,
            "stop_reason": chunks[-1].stop_reason,
            **self._of_prompt(),
        }

    def _of_prompt(self) -> dict[str, Any]:
        body = self._request.body
        if body.prompt_logprobs is None:
            return {"prompt_token_ids": body.prompt, "prompt_logprobs": None}
        entries = [None if each is None else self._prompt_entry(each) for each in self._request.prompt_logprobs]
        return {"prompt_token_ids": body.prompt, "prompt_logprobs": entries}

    def _prompt_entry(self, found: TokenLogprobs) -> dict[str, Any]:
        pairs = {token: (logprob, rank) for rank, (token, logprob) in enumerate(found.alternatives, 1)}
        pairs.setdefault(found.token, (found.logprob, found.rank))
        decode = self._request.tokenizer.decode
        return {
            str(token): {"logprob": logprob, "rank": rank, "decoded_token": decode([token], skip_special_tokens=False)}
            for token, (logprob, rank) in pairs.items()
        }

    def _usage(self) -> dict[str, int]:
        prompt = len(self._request.body.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._generated,
            "total_tokens": prompt + self._generated,
        }


def _logprobs(found: Sequence[TokenLogprobs]) -> dict[str, Any]:
    return {
        "tokens": [_name(each.token) for each in found],
        "token_logprobs": [each.logprob for each in found],
        "top_logprobs": [
            {_name(token): logprob for token, logprob in ((each.token, each.logprob), *each.alternatives)}
            for each in found
        ],
    }


def _name(token: int) -> str:
    return f"token_id:{token}"
