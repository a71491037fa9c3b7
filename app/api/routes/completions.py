"""`/v1/completions`: OpenAI's legacy route, which completes plain text without a chat template."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.api.deps import InferenceEngines, Models, Threads, Usage
from app.api.event_streams import STREAM_CONTENT
from app.api.hang_ups import until_hang_up
from app.api.inference_slots import InferenceSlot
from app.api.schemas.completions import Completion, CreateCompletion
from app.api.served_models import LoadedModel
from app.api.streamed_answer import DONE, event, streamed
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core import ids
from app.core.accounts.scopes import Scope
from app.core.chat.tokenizer import ChatTokenizer
from app.core.inference.chat_request import check_bias
from app.core.inference.context import room
from app.core.inference.engine_answers import ChoiceDelta, EngineCompletion
from app.core.inference.engines import Engines
from app.core.inference.models import ServedModel
from app.core.inference.returned_tokens import ReturnedTokens
from app.core.inference.sampling import Sampling
from app.core.inference.text_completion import LegacyLogprobs, TextPrompt, read_prompts

router = APIRouter(tags=["Inference"])


@dataclass(frozen=True)
class _Work:
    """A request that is ready for an engine."""

    served: ServedModel
    tokenizer: ChatTokenizer
    prompts: list[TextPrompt]
    sampling: Sampling
    echo: bool

    @property
    def only_prompt(self) -> bool:
        return self.sampling.max_tokens == 0

    def tokens(self) -> ReturnedTokens:
        """Return a reader of the tokens of one completion."""
        return ReturnedTokens(self.tokenizer, has_stop=bool(self.sampling.stop))

    def body(self, prompt: TextPrompt) -> dict[str, Any]:
        """Return the engine's request. Engines generate at least one token; `max_tokens` 0 drops it."""
        max_tokens = max(1, self.sampling.max_tokens or 0)
        body = self.sampling.to_body(prompt.ids, max_tokens, self.tokenizer.end_ids)
        return body | {"prompt_logprobs": self.sampling.logprobs} if self.echo else body


@router.post(
    "/completions",
    response_model=Completion,
    responses={200: {"content": STREAM_CONTENT}},
    dependencies=[needs(Scope.inference)],
)
async def create_completion(
    request: Request,
    caller: Caller,
    body: CreateCompletion,
    models: Models,
    engines: InferenceEngines,
    threads: Threads,
    usage: Usage,
    _slot: InferenceSlot,
) -> Response:
    """Complete one or several texts with a base model or a fine-tuned model."""
    model = await models.get(caller.project_id, body.model)
    work = await threads.prepare(request, partial(_prepare, model, body))
    head = {
        "id": ids.completion_id(),
        "object": "text_completion",
        "created": int(time.time()),
        "model": work.served.id,
    }
    if body.stream:
        count = partial(usage.add, caller, work.served.id)
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return await streamed(request, _stream(engines, work, head, count, with_usage))
    found = await until_hang_up(request, _complete_all(engines, work))
    prompt_tokens = sum(one.usage.prompt_tokens for one in found)
    completion_tokens = 0 if work.only_prompt else sum(one.usage.completion_tokens for one in found)
    usage.add(caller, work.served.id, prompt_tokens, completion_tokens)
    choices = [choice for place, one in enumerate(found) for choice in _choices(work, place, one)]
    return JSONResponse(head | {"choices": choices, "usage": _usage(prompt_tokens, completion_tokens)})


def _prepare(model: LoadedModel, body: CreateCompletion) -> _Work:
    """Tokenize the prompts. Raises as `read_prompts`, `check_bias` and `room`."""
    limit = model.served.base.context_length
    sampling, prompts = body.sampling(), read_prompts(body.prompt, model.tokenizer, limit)
    check_bias(model.tokenizer, sampling)
    for prompt in prompts:
        room(limit, len(prompt.ids), sampling.max_tokens, param="prompt")
    return _Work(model.served, model.tokenizer, prompts, sampling, bool(body.echo))


async def _complete_all(engines: Engines, work: _Work) -> list[EngineCompletion]:
    """Complete all prompts at once; the first error ends the others."""
    tasks = [asyncio.create_task(engines.complete(work.served, work.body(prompt))) for prompt in work.prompts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _choices(work: _Work, place: int, completion: EngineCompletion) -> list[dict[str, Any]]:
    prompt = work.prompts[place]
    return [_choice(work, prompt, place * work.sampling.n, choice) for choice in completion.choices]


def _choice(work: _Work, prompt: TextPrompt, first: int, choice: ChoiceDelta) -> dict[str, Any]:
    logprobs = LegacyLogprobs(work.tokenizer.token_bytes, 0 if work.echo else len(prompt.text))
    written: dict[str, list[Any]] = {}
    if work.echo and choice.prompt_logprobs is not None:
        written = logprobs.write_prompt(prompt.ids, choice.prompt_logprobs, work.sampling.logprobs or 0)
    choice = _generated(work, choice)
    if choice.logprobs is not None:
        for name, values in logprobs.write(work.tokens().take(choice)).items():
            written[name] = [*written.get(name, ()), *values]
    return {
        "index": first + choice.index,
        "text": prompt.text + choice.text if work.echo else choice.text,
        "logprobs": written or None,
        "finish_reason": choice.finish_reason,
    }


def _generated(work: _Work, choice: ChoiceDelta) -> ChoiceDelta:
    """Return the completion as requested: without the token that only the engine needed."""
    if not work.only_prompt:
        return choice
    reason = "length" if choice.finish_reason else None
    return replace(choice, text="", logprobs=None if choice.logprobs is None else (), finish_reason=reason)


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


async def _stream(
    engines: Engines, work: _Work, head: dict[str, Any], count: Any, with_usage: bool
) -> AsyncGenerator[str, None]:
    """Yield the completions of one prompt after the other; counts the generated tokens, also if the client hangs up."""
    extra = {"usage": None} if with_usage else {}
    prompt_tokens = completion_tokens = 0
    try:
        for place, prompt in enumerate(work.prompts):
            async with engines.stream(work.served, work.body(prompt)) as chunks:
                prompt_tokens += len(prompt.ids)
                writer = _StreamWriter(work, prompt, place * work.sampling.n)
                for opening in writer.echoes():
                    yield event(head | {"choices": [opening]} | extra)
                async for chunk in chunks:
                    if not work.only_prompt:
                        completion_tokens += sum(len(choice.token_ids) for choice in chunk.choices)
                    for choice in chunk.choices:
                        yield event(head | {"choices": [writer.write(choice)]} | extra)
        if with_usage:
            yield event(head | {"choices": [], "usage": _usage(prompt_tokens, completion_tokens)})
        yield DONE
    finally:
        if prompt_tokens:  # none if the engine has refused the request
            count(prompt_tokens, completion_tokens)


class _StreamWriter:
    """Writes the chunks of one prompt's completions."""

    def __init__(self, work: _Work, prompt: TextPrompt, first: int) -> None:
        self._work, self._prompt, self._first = work, prompt, first
        offset = 0 if work.echo else len(prompt.text)
        self._logprobs = [LegacyLogprobs(work.tokenizer.token_bytes, offset) for _ in range(work.sampling.n)]
        self._tokens = [work.tokens() for _ in range(work.sampling.n)]

    def echoes(self) -> list[dict[str, Any]]:
        """Return a chunk with the prompt for each completion, if the client wants an echo."""
        if not self._work.echo:
            return []
        opening = {"text": self._prompt.text, "logprobs": None, "finish_reason": None}
        return [{"index": self._first + index, **opening} for index in range(self._work.sampling.n)]

    def write(self, choice: ChoiceDelta) -> dict[str, Any]:
        """Return the chunk of one piece."""
        choice = _generated(self._work, choice)
        logprobs = None
        if choice.logprobs is not None:
            logprobs = self._logprobs[choice.index].write(self._tokens[choice.index].take(choice))
        return {
            "index": self._first + choice.index,
            "text": choice.text,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
        }
