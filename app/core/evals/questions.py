"""What a model of this installation is asked for a row, through the same steps as a chat of the gateway."""

from app.core.chat import tokenizer
from app.core.chat.tokenizer import ChatTokenizer
from app.core.evals.prompts import Prompt
from app.core.inference.chat_request import ChatQuestion, PreparedChat, prepare
from app.core.inference.chat_tokenizers import tokenizer_of
from app.core.inference.models import ServedModel
from app.core.inference.sampling import Sampling
from app.core.inference.structured import CallRules
from app.core.spec.evals import SamplerSpec


def load_tokenizer(served: ServedModel, spec: SamplerSpec) -> ChatTokenizer:
    """Return the model's tokenizer. Raises `InvalidRequest` for a variable that its chat template does not read."""
    return tokenizer_of(served, tokenizer.load(served.base.directory), _variables(spec))


def ask(loaded: ChatTokenizer, context_length: int | None, spec: SamplerSpec, prompt: Prompt) -> PreparedChat:
    """Return the request to an engine. Raises `InvalidRequest` for what the model cannot do."""
    return prepare(loaded, context_length, _question(spec, prompt))


def _question(spec: SamplerSpec, prompt: Prompt) -> ChatQuestion:
    return ChatQuestion(
        messages=prompt.messages,
        sampling=Sampling(
            max_tokens=spec.max_completion_tokens, temperature=spec.temperature, top_p=spec.top_p, seed=spec.seed
        ),
        calls=CallRules(allowed=spec.tools or prompt.tools, param="response_format" if spec.json_schema else "tools"),
        schema=spec.json_schema,
        variables=_variables(spec),
    )


def _variables(spec: SamplerSpec) -> dict[str, str]:
    return {} if spec.reasoning_effort is None else {"reasoning_effort": spec.reasoning_effort}
