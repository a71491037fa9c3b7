"""Samples the answers of an eval's run: from the engines, as the gateway does, or from an OpenAI-compatible server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from app.core.chat.tokenizer import ChatTokenizer
from app.core.db import Database
from app.core.egress.client import AddressRefused
from app.core.egress.ip_policy import PrivateHosts
from app.core.egress.json_client import ChatServer, NoUsableResponse
from app.core.errors import DatabaseUnavailable, GrouptuneError
from app.core.evals import questions, samplers
from app.core.evals.claims import EvalClaim
from app.core.evals.prompts import Prompt
from app.core.graders.types import Sample
from app.core.inference.engines import Engines
from app.core.inference.errors import EngineBusy, EngineUnavailable, ModelNotServed, NoEngine
from app.core.inference.models import ServedModel
from app.core.jobs.events import clean
from app.core.retry import RetryPolicy, retry_async
from app.core.secrets import KeyRing
from app.core.settings import Settings
from app.core.spec.answers import ParsedAnswer
from app.core.spec.evals import ModelUsage, SamplerSpec
from app.core.spec.json_lines import Refused
from app.core.spec.messages import Conversation
from app.core.spec.teacher_answers import as_sent, storable
from app.core.storage.blobs import BlobStore, StorageUnavailable
from app.core.teachers import keys

ENGINE_RETRIES: Final = RetryPolicy(attempts=10, longest_wait_seconds=30.0)
"""About two minutes, in which an engine starts again or becomes less busy: a run should not lose its rows to that."""
SERVER_RETRIES: Final = RetryPolicy(attempts=6, longest_wait_seconds=60.0)
"""The same as for teachers."""
SERVER_TIMEOUT_SECONDS: Final = 300.0
"""Of one request, including the whole answer: reasoning models take minutes."""
_OUTAGES: Final = (EngineUnavailable, EngineBusy, ModelNotServed, NoEngine)
_FIELD_REJECTED: Final = frozenset({400, 422})
"""Statuses with which servers reject a field that they do not support."""


class NoAnswer(Exception):
    """A row has no answer; the message says why."""

    def __init__(self, code: str, message: str, *, is_outage: bool = False) -> None:
        """`is_outage`: the model's server was unavailable, which is no property of the row."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.is_outage = is_outage


@dataclass(frozen=True)
class Sampled:
    """One answer."""

    sample: Sample
    model: str
    finish_reason: str
    usage: ModelUsage


class Sampler(Protocol):
    """Answers prompts, many at a time."""

    counted_model: str | None
    """The model of this installation whose usage is counted; None for one of another server."""

    async def sample(self, prompt: Prompt) -> Sampled:
        """Return the answer to a prompt. Raises `NoAnswer`, and outages of Postgres and the blob store."""
        ...


class EngineSampler:
    """Samples from a model of this installation."""

    def __init__(self, engines: Engines, served: ServedModel, loaded: ChatTokenizer, spec: SamplerSpec) -> None:
        self._engines, self._served, self._tokenizer, self._spec = engines, served, loaded, spec
        self.counted_model: str | None = served.id

    async def sample(self, prompt: Prompt) -> Sampled:
        """Return the answer as the gateway reads it."""
        try:
            length = self._engines.context_length(self._served.base)
            chat = await asyncio.to_thread(questions.ask, self._tokenizer, length, self._spec, prompt)
            completion = await retry_async(
                partial(self._engines.complete, self._served, chat.body),
                ENGINE_RETRIES,
                is_retryable=lambda error: isinstance(error, EngineUnavailable | EngineBusy),
            )
        except (DatabaseUnavailable, StorageUnavailable):
            raise
        except GrouptuneError as error:
            is_outage = isinstance(error, _OUTAGES)
            raise NoAnswer(error.code or "sampler_error", error.message_for_clients, is_outage=is_outage) from error
        [choice] = completion.choices
        is_cut = choice.finish_reason == "length"
        read = chat.reader().finish(choice.text, is_cut=is_cut)
        calls = tuple(clean(call.to_wire(index)) for index, call in enumerate(read.calls))
        answer = ParsedAnswer(storable(read.content), storable(read.reasoning), calls)
        return Sampled(
            sample=Sample.of(answer, finished=not is_cut),
            model=self._served.id,
            finish_reason="tool_calls" if calls and not is_cut else choice.finish_reason or "stop",
            usage=ModelUsage(
                invocation_count=1,
                prompt_tokens=chat.prompt_tokens,
                completion_tokens=completion.usage.completion_tokens,
            ),
        )


class ServerSampler:
    """Samples from an OpenAI-compatible server."""

    counted_model: str | None = None

    def __init__(self, chat: ChatServer, spec: SamplerSpec, threads: ThreadPoolExecutor) -> None:
        self._chat, self._spec, self._threads = chat, spec, threads
        self._limit = "max_completion_tokens"

    async def sample(self, prompt: Prompt) -> Sampled:
        """Return the first choice of the server's answer."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._sample, prompt)

    def _sample(self, prompt: Prompt) -> Sampled:
        try:
            return self._read(self._complete(prompt))
        except NoUsableResponse as error:
            raise NoAnswer("sampler_error", storable(str(error)), is_outage=error.is_retryable) from error
        except AddressRefused as error:
            raise NoAnswer(error.code or "sampler_error", error.message) from error

    def _complete(self, prompt: Prompt) -> dict[str, Any]:
        sent = self._body(prompt)
        try:
            return self._chat.complete(sent)
        except NoUsableResponse as error:
            # Older servers know only the older name of the limit.
            if error.status not in _FIELD_REJECTED or "max_completion_tokens" not in sent:
                raise
            if "max_completion_tokens" not in str(error):
                raise
            self._limit = "max_tokens"
            return self._chat.complete(self._body(prompt))

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        spec = self._spec
        body: dict[str, Any] = {
            "model": spec.model,
            "messages": [as_sent(message) for message in prompt.messages],
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            "seed": spec.seed,
        }
        optional = {
            self._limit: spec.max_completion_tokens,
            "reasoning_effort": spec.reasoning_effort,
            "response_format": spec.response_format,
            "tools": list(spec.tools or prompt.tools) or None,
        }
        return body | {name: value for name, value in optional.items() if value is not None}

    def _read(self, completion: dict[str, Any]) -> Sampled:
        try:
            choice = completion["choices"][0]
            message, reason = choice["message"], choice.get("finish_reason")
            refusal = message.get("refusal")
        except (LookupError, TypeError, AttributeError):
            raise NoUsableResponse("the model's response is not a chat completion with choices") from None
        if refusal and not message.get("content"):
            raise NoUsableResponse(f"the model refused: {refusal!s:.200}")
        model = completion.get("model")
        return Sampled(
            sample=Sample.of(_parsed(message), finished=reason != "length"),
            model=storable(model)[:256] if isinstance(model, str) and model else self._spec.model,
            finish_reason=storable(reason)[:32] if isinstance(reason, str) else "stop",
            usage=_usage(completion.get("usage")),
        )


def _parsed(message: dict[str, Any]) -> ParsedAnswer:
    conversation = Conversation(allows_empty=True)
    names = ("content", "tool_calls", "function_call", "reasoning_content", "reasoning")
    sent = {"role": "assistant", **{name: message[name] for name in names if message.get(name)}}
    try:
        conversation.add([sent], "message")
    except Refused as refused:
        raise NoUsableResponse(f"the model's answer cannot be read: {refused.message}") from None
    read = ParsedAnswer.of(conversation.messages[0])
    return ParsedAnswer(storable(read.text), storable(read.reasoning), tuple(clean(read.tool_calls)))


def _usage(reported: Any) -> ModelUsage:
    reported = reported if isinstance(reported, dict) else {}
    details = reported.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    counts = {
        "prompt_tokens": reported.get("prompt_tokens"),
        "completion_tokens": reported.get("completion_tokens"),
        "cached_tokens": details.get("cached_tokens"),
    }
    valid = {name: count for name, count in counts.items() if type(count) is int and 0 <= count < 2**31}
    return ModelUsage(invocation_count=1, **valid)


@asynccontextmanager
async def opened(
    database: Database, store: BlobStore, settings: Settings, ring: KeyRing, claim: EvalClaim, at_once: int
) -> AsyncIterator[Sampler | None]:
    """Open the run's sampler during a block; None for a run that grades stored answers.

    Raises `GrouptuneError` if the model is gone, and outages of Postgres and the blob store.
    """
    spec = claim.sampler
    if spec is None:
        yield None
    elif spec.base_url is None and not spec.is_operators:
        with database.reading() as session:
            served = samplers.served(session, claim.project_id, spec, settings)
        loaded = await asyncio.to_thread(questions.load_tokenizer, served, spec)
        async with Engines(settings, store) as engines:
            yield EngineSampler(engines, served, loaded, spec)
    else:
        with (
            _server(database, settings, ring, claim.project_id, spec, at_once) as chat,
            ThreadPoolExecutor(at_once, "eval-sampler") as threads,
        ):
            try:
                yield ServerSampler(chat, spec, threads)
            finally:
                chat.close()  # ends requests in flight, for which the threads would wait


def _server(
    database: Database, settings: Settings, ring: KeyRing, project_id: str, spec: SamplerSpec, at_once: int
) -> ChatServer:
    url, api_key = spec.base_url, None
    allowed: Sequence[str] = settings.allowed_private_hosts
    if url is None:
        url, own = settings.teacher_url, settings.teacher_api_key
        if url is None:
            raise GrouptuneError("The operator's teacher server is gone (GROUPTUNE_TEACHER_URL).", code="no_sampler")
        api_key = own.get_secret_value() if own else None
        # A server that the operator configured may be in a private network.
        allowed = (urlsplit(url).hostname or "",)
    else:
        with database.reading() as session:
            secret = keys.secret_for(session, project_id, url)
        api_key = None if secret is None else ring.decrypt(secret)
    return ChatServer(
        url,
        api_key,
        PrivateHosts.parse(allowed),
        server_name="the model's server",
        retry_policy=SERVER_RETRIES,
        timeout_seconds=SERVER_TIMEOUT_SECONDS,
        max_connections=at_once,
    )
