"""`/v1/responses`: OpenAI's Responses API for text and functions. The server stores no responses."""

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.api.deps import InferenceEngines, Models, Threads, Usage
from app.api.event_streams import STREAM_CONTENT
from app.api.hang_ups import until_hang_up
from app.api.inference_slots import InferenceSlot
from app.api.response_answers import ResponseAnswer
from app.api.schemas.responses import CreateResponse, ResponseObject
from app.api.served_models import LoadedModel
from app.api.streamed_answer import event, streamed
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.errors import InvalidRequest
from app.core.inference.chat_request import PreparedChat, prepare
from app.core.inference.chat_tokenizers import tokenizer_of
from app.core.inference.engines import Engines
from app.core.inference.errors import EngineRefused
from app.core.inference.models import ServedModel

router = APIRouter(tags=["Inference"])

_PARAMS: Final = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""Field of a chat -> field of this route."""


@router.post(
    "/responses",
    response_model=ResponseObject,
    responses={200: {"content": STREAM_CONTENT}},
    dependencies=[needs(Scope.inference)],
)
async def create_response(
    request: Request,
    caller: Caller,
    body: CreateResponse,
    models: Models,
    engines: InferenceEngines,
    threads: Threads,
    usage: Usage,
    _slot: InferenceSlot,
) -> Response:
    """Answer a question or continue a conversation with a base model or a fine-tuned model."""
    model = await models.get(caller.project_id, body.model)
    served = model.served
    chat = await threads.prepare(request, partial(_prepare, engines, model, body))
    answer = ResponseAnswer(served, chat, body)

    def count() -> None:
        usage.add(caller, served.id, chat.prompt_tokens, answer.completion_tokens)

    if body.stream:
        events = _events(engines, served, chat, answer, count)
        return await streamed(request, events, lambda error: event(answer.failure(error), "error"))
    completion = await until_hang_up(request, _complete(engines, served, chat))
    whole = answer.whole(completion)
    count()
    return JSONResponse(whole)


def _prepare(engines: Engines, model: LoadedModel, body: CreateResponse) -> PreparedChat:
    """Render the conversation. Raises as `tokenizer_of` and `prepare`."""
    question = body.question()
    try:
        tokenizer = tokenizer_of(model.served, model.tokenizer, question.variables)
        return prepare(tokenizer, engines.context_length(model.served.base), question)
    except InvalidRequest as error:
        raise _as_sent(error) from None


async def _complete(engines: Engines, served: ServedModel, chat: PreparedChat) -> Any:
    try:
        return await engines.complete(served, chat.body)
    except EngineRefused as refused:
        raise _as_sent(chat.refusal(refused)) from None


async def _events(
    engines: Engines, served: ServedModel, chat: PreparedChat, answer: ResponseAnswer, count: Callable[[], None]
) -> AsyncGenerator[str, None]:
    """Yield the messages of a stream. Tokens count also if the client hangs up."""
    try:
        async with engines.stream(served, chat.body) as chunks:
            for written in answer.opening():
                yield event(written, written["type"])
            async for chunk in chunks:
                for written in answer.events(chunk):
                    yield event(written, written["type"])
    except EngineRefused as refused:
        raise _as_sent(chat.refusal(refused)) from None
    finally:
        if answer.completion_tokens:
            count()


def _as_sent(error: InvalidRequest) -> InvalidRequest:
    """Return the error with the field of this route in place of the chat's."""
    head, _, rest = (error.param or "").partition(".")
    if head not in _PARAMS:
        return error
    # Items of the input and messages do not have the same numbers.
    param = _PARAMS[head] if head == "messages" else ".".join(filter(None, (_PARAMS[head], rest)))
    return type(error)(error.message.replace("'messages'", "'input'"), param=param, code=error.code)
