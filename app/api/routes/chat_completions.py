"""`/v1/chat/completions`: answers of base models and fine-tuned models to chats."""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.api.chat_answers import ChatAnswer, ChatForm
from app.api.deps import InferenceEngines, Models, Threads, Usage
from app.api.event_streams import STREAM_CONTENT
from app.api.hang_ups import until_hang_up
from app.api.inference_slots import InferenceSlot
from app.api.schemas.chat_answers import ChatCompletion
from app.api.schemas.chat_completions import CreateChatCompletion
from app.api.served_models import LoadedModel
from app.api.streamed_answer import DONE, event, streamed
from app.auth.bearer import Caller
from app.auth.principal import Principal
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.inference.chat_request import PreparedChat, prepare
from app.core.inference.chat_tokenizers import tokenizer_of
from app.core.inference.engines import Engines
from app.core.inference.errors import EngineRefused
from app.core.inference.models import ServedModel
from app.core.inference.usage import Recorder

router = APIRouter(tags=["Inference"])

_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": STREAM_CONTENT, "description": "The answer or its stream."}
}


@router.post(
    "/chat/completions", response_model=ChatCompletion, responses=_STREAM, dependencies=[needs(Scope.inference)]
)
async def create_chat_completion(
    request: Request,
    caller: Caller,
    body: CreateChatCompletion,
    models: Models,
    engines: InferenceEngines,
    threads: Threads,
    usage: Usage,
    _slot: InferenceSlot,
) -> Response:
    """Continue a chat with a base model or a fine-tuned model, as OpenAI's route of this name does."""
    model = await models.get(caller.project_id, body.model)
    served = model.served
    chat = await threads.prepare(request, partial(_prepare, engines, model, body))
    answer = ChatAnswer(served, chat, _form(body))
    if body.stream:
        return await streamed(request, _events(engines, served, chat, answer, partial(_count, usage, caller, served)))
    completion = await until_hang_up(request, _complete(engines, served, chat))
    whole = answer.whole(completion)
    _count(usage, caller, served, chat, answer)
    return JSONResponse(whole)


def _form(body: CreateChatCompletion) -> ChatForm:
    includes_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return ChatForm(is_legacy=bool(body.functions), is_forced=body.is_forced, includes_usage=includes_usage)


def _prepare(engines: Engines, model: LoadedModel, body: CreateChatCompletion) -> PreparedChat:
    """Render the chat. Raises as `tokenizer_of` and `prepare`."""
    question = body.question()
    tokenizer = tokenizer_of(model.served, model.tokenizer, question.variables)
    return prepare(tokenizer, engines.context_length(model.served.base), question)


async def _complete(engines: Engines, served: ServedModel, chat: PreparedChat) -> Any:
    try:
        return await engines.complete(served, chat.body)
    except EngineRefused as refused:
        raise chat.refusal(refused) from None


async def _events(
    engines: Engines, served: ServedModel, chat: PreparedChat, answer: ChatAnswer, count: Any
) -> AsyncGenerator[str, None]:
    """Yield the messages of a stream. Tokens count also if the client hangs up."""
    try:
        async with engines.stream(served, chat.body) as chunks:
            async for chunk in chunks:
                for written in answer.chunks(chunk):
                    yield event(written)
        if (last := answer.last_chunk()) is not None:
            yield event(last)
        yield DONE
    except EngineRefused as refused:
        raise chat.refusal(refused) from None
    finally:
        if answer.completion_tokens:
            count(chat, answer)


def _count(usage: Recorder, caller: Principal, served: ServedModel, chat: PreparedChat, answer: ChatAnswer) -> None:
    usage.add(caller, served.id, chat.prompt_tokens, answer.completion_tokens)
