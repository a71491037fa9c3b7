"""The body of `POST /v1/fine_tuning/jobs` in all forms that clients send, and its conversion to a `JobSpec`."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    model_validator,
)

from app.api.ids import MAX_ID, MAX_MODEL_NAME
from app.api.schemas import openai_fields
from app.api.schemas.methods import Method, RolloutsOnly, Supervised
from app.api.schemas.openai_fields import problem
from app.core.errors import InvalidRequest
from app.core.jobs.state_machine import MAX_PRIORITY, MIN_PRIORITY
from app.core.jobs.submission import JobRequest, Notice
from app.core.spec.frozen import Frozen
from app.core.spec.gates import MAX_GATES, AliasName, GateText
from app.core.spec.integrations import MAX_INTEGRATIONS, Integration
from app.core.spec.job import (
    Auto,
    GroupMethod,
    GroupMix,
    JobSpec,
    MethodType,
)
from app.core.spec.resources import Resources
from app.core.spec.template_variables import TemplateVariables

_UNSET: Final = (None, "auto")
MAX_SEED: Final = 2_147_483_647
_TYPES: Final = ", ".join(f"'{name}'" for name in ("gft", "supervised", "dft", "dpo", "reinforcement"))


class PlainHyperparameters(Frozen):
    """The deprecated top-level form. Its values are moved into the method."""

    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    """See the method's `hyperparameters`."""
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000)] | Auto = "auto"
    """See the method's `hyperparameters`."""
    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto = "auto"
    """See the method's `hyperparameters`."""


MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Suffix = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


JobResources = Annotated[
    Resources,
    BeforeValidator(lambda sent: {} if sent == "auto" else sent),
    Field(
        description="The GPUs of a worker and the number of workers that the job needs, such as "
        '`{"gpus": 2, "nodes": 3}`. Only workers with as many GPUs take it. `auto`: one worker, with the GPUs that '
        "it gives to each job. See docs/jobs.md."
    ),
]


class UpdateJob(Frozen):
    """The changes to a job."""

    priority: Annotated[
        int | None,
        Field(ge=MIN_PRIORITY, le=MAX_PRIORITY, description="Only for a job that is not finished."),
    ] = None
    metadata: Annotated[
        dict[MetadataKey, MetadataValue] | None,
        Field(
            max_length=16,
            description="Replaces all metadata, in every state of the job; `{}` removes it. The dashboard shows "
            "`name`, `note` and `tags` (separated by commas).",
        ),
    ] = None
    resources: Annotated[JobResources | None, Field(description="Only for a job that waits or is paused.")] = None


class CreateJob(Frozen):
    """A job to create. An explicit null means the same as an absent field."""

    # The word `model` means a base model here; nothing of pydantic's is shadowed.
    model_config = ConfigDict(protected_namespaces=())

    model: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_MODEL_NAME,
            description="A base model, a fine-tuned model or an alias; `GET /v1/models` lists them.",
        ),
    ]
    training_file: Annotated[str, Field(max_length=MAX_ID, description="Id of a file with purpose `fine-tune`.")]
    validation_file: Annotated[
        str | None,
        Field(
            max_length=MAX_ID,
            description="Id of a file with held-out rows. Half of them select the adapter during training; the other "
            "half report how good it is. See docs/method.md.",
        ),
    ] = None
    test_file: Annotated[
        str | None,
        Field(
            max_length=MAX_ID,
            description="Id of a file with further held-out rows, which report instead. All rows of the "
            "`validation_file`, which is then required, select.",
        ),
    ] = None
    suffix: Annotated[Suffix | None, Field(description="Part of the name of the trained model.")] = None
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED, description="Drawn at random if absent.")] = None
    metadata: Annotated[dict[MetadataKey, MetadataValue] | None, Field(max_length=16)] = None
    """Up to 16 key-value pairs of your own, to search and filter jobs by."""
    integrations: Annotated[
        tuple[Integration, ...] | None,
        Field(max_length=MAX_INTEGRATIONS, description="Trackers that also receive the metrics. See docs/trackers.md."),
    ] = None
    chat_template_kwargs: Annotated[
        TemplateVariables,
        Field(
            description="Variables of the model's chat template, such as `enable_thinking`. Use the same for inference."
        ),
    ] = Field(default_factory=dict)
    hyperparameters: Annotated[
        PlainHyperparameters | None, Field(deprecated=True, description="Use the method's `hyperparameters`.")
    ] = None
    method: Annotated[Method, Field(description="The training method; supervised if absent.")] = Supervised(
        type="supervised"
    )
    gates: Annotated[
        tuple[GateText, ...],
        Field(
            max_length=MAX_GATES,
            description="Conditions on the held-out results that must hold for the job to succeed, such as "
            "`eval/accuracy >= 0.8`, `eval/reward no worse than alias prod by 0.01` or `vs control >= 0`. The "
            "method may contain them instead. See docs/gates.md.",
        ),
    ] = ()
    control: Annotated[
        MethodType | None,
        Field(
            description="Another method. A second job trains with it first, on the same rows with the same seed and "
            "budget, and the job ends with the paired difference on the held-out rows. Requires a `validation_file` "
            "and a grader. See docs/method.md."
        ),
    ] = None
    alias: Annotated[
        AliasName | None,
        Field(
            description="Alias that will name the trained model once the job has succeeded and all gates are passed."
        ),
    ] = None
    resources: JobResources = Resources()
    priority: Annotated[
        int,
        Field(
            ge=MIN_PRIORITY,
            le=MAX_PRIORITY,
            description="Jobs with a higher priority start first, and preempt a running job with a lower one if "
            "no worker is free. At most the project's `limits.priority`.",
        ),
    ] = 0
    gft: Annotated[
        dict[str, Any] | None,
        Field(
            description="For typed clients (`extra_body`). With method.type `reinforcement`, these fields of "
            "`method.gft` turn the job into a gft job."
        ),
    ] = None

    _sent: Mapping[str, Any] = PrivateAttr(default_factory=dict)
    _notices: tuple[Notice, ...] = PrivateAttr(default=())

    @model_validator(mode="wrap")
    @classmethod
    def _from_every_form(cls, body: Any, handler: ModelWrapValidatorHandler["CreateJob"]) -> "CreateJob":
        """Convert the deprecated and the typed form into the canonical form, without changing the client's object."""
        if not isinstance(body, Mapping):
            return handler(body)
        canonical, notices = _canonical(body)
        job = handler(canonical)
        job._sent = body
        job._refuse_unused_divergence()
        job._notices = (*notices, *job._without_held_out_rows())
        return job

    @staticmethod
    def path_as_sent(param: str, body: Any) -> str:
        """Return where the client put the field that the canonical form calls `param`."""
        if not isinstance(body, Mapping):
            return param
        top, extra = body.get("hyperparameters"), body.get("gft")
        match param.split("."):
            case ["method", _, "hyperparameters", name, *_] if isinstance(top, Mapping) and top.get(name) not in _UNSET:
                return f"hyperparameters.{name}"
            case ["method", "gft", head, *_] if isinstance(extra, Mapping):
                place = "gft" if head in extra else "method.reinforcement"
                return param.replace("method.gft", place, 1)
        return param

    def _refuse_unused_divergence(self) -> None:
        # A validator of the spec would also refuse stored jobs of earlier versions.
        settings = self.method.settings
        if isinstance(settings, GroupMethod) and settings.kl_coefficient and settings.group.self_ == 0:
            raise problem(
                self.path_as_sent("method.gft.kl_coefficient", self._sent),
                "The divergence is estimated on rollouts only: set group.self to at least 1, or remove kl_coefficient.",
            )

    def _without_held_out_rows(self) -> list[Notice]:
        """Return a notice for each setting of evaluations if the job has no held-out rows to evaluate."""
        if self.validation_file is not None:
            return []
        settings, kind = self.method.settings, self.method.type
        chosen = {
            "hyperparameters.eval_interval": settings.hyperparameters.eval_interval != "auto",
            "hyperparameters.eval_samples": settings.hyperparameters.eval_samples != "auto",
            "evaluation.pass_samples": settings.evaluation.pass_samples > 0,
            "evaluation.patience": settings.evaluation.patience is not None,
        }
        paths = [
            self.path_as_sent(f"method.{kind}.{name}", self._sent) for name, is_chosen in chosen.items() if is_chosen
        ]
        return [openai_fields.ignored(path, "the job has no `validation_file`") for path in paths]

    def to_request(self) -> JobRequest:
        """Return the request to validate. A missing seed is drawn here, so call this once per request."""
        return JobRequest(
            self._spec(), self.training_file, self.validation_file, self.priority, self._notices, self.test_file
        )

    def as_sent(self, error: InvalidRequest) -> InvalidRequest:
        """Return the same error, with the path of the field as the client sent it in `param`."""
        error.param = self.path_as_sent(error.param or "", self._sent) or None
        return error

    def _spec(self) -> JobSpec:
        return JobSpec(
            model=self.model,
            method=MethodType(self.method.type),
            settings=self.method.settings,
            seed=secrets.randbelow(MAX_SEED + 1) if self.seed is None else self.seed,
            suffix=self.suffix,
            metadata=self.metadata,
            gates=self.gates,
            control=self.control,
            alias=self.alias,
            chat_template_kwargs=self.chat_template_kwargs,
            integrations=self.integrations or (),
            resources=self.resources,
            typed_form=self.gft is not None,
        )


def _gates_of(body: dict[str, Any], method: dict[str, Any]) -> dict[str, Any]:
    """Move gates from the method or the extra `gft` to the top level of the body."""
    gates_by_path = {}
    for path, holder in (
        (f"method.{method['type']}.gates", method.get(str(method["type"]))),
        ("gft.gates", body.get("gft")),
    ):
        if isinstance(holder, dict) and "gates" in holder:
            gates_by_path[path] = holder.pop("gates")
    if not gates_by_path:
        return {}
    if len(gates_by_path) > 1 or "gates" in body:
        raise problem(
            next(iter(gates_by_path)), "This request contains gates in several places. Send them once, in `gates`."
        )
    return {"gates": next(iter(gates_by_path.values()))}


def _canonical(sent: Mapping[str, Any]) -> tuple[dict[str, Any], list[Notice]]:
    """Return the body in its canonical form, and notices of fields that this server treats differently."""
    notices = list[Notice]()
    body = {key: value for key, value in sent.items() if value is not None}
    if body.pop("trainingType", None) is not None:  # Azure's
        notices.append(openai_fields.ignored("trainingType", "jobs run on this server's own workers"))
    method = _without_nulls(body.get("method", {"type": "supervised"}))
    if not isinstance(method, dict) or "type" not in method:
        return body, notices
    kind = method["type"]
    _refuse_unknown(kind)
    extra = _without_nulls(body.get("gft"))
    if extra is not None:
        body["gft"] = extra
    body |= _gates_of(body, method)
    settings = method.get(kind, {})
    if extra is not None and kind != "reinforcement":
        hint = "The extra field `gft` requires method.type 'reinforcement'. Put its settings into `method.gft`."
        raise problem("gft", hint)
    if not isinstance(settings, dict):
        return body | {"method": method}, notices
    moved: dict[str, str] = {}
    top = _without_nulls(body.get("hyperparameters"))
    if isinstance(top, dict):
        body["hyperparameters"], settings, moved = _with_top_level(settings, top, kind)
    if isinstance(settings.get("hyperparameters"), dict):
        settings = settings | {"hyperparameters": openai_fields.without_neutral(settings["hyperparameters"])}
    if kind == "reinforcement":
        rollouts = (RolloutsOnly() if extra is None else GroupMix()).self_
        settings, variables, more = openai_fields.reinforcement(settings, extra, rollouts, moved)
        body |= openai_fields.with_variables(body, variables)
        notices += more
    if isinstance(extra, dict):
        return body | {"method": {"type": "gft", "gft": _merged(settings, extra)}}, notices
    return body | {"method": method | {kind: settings}}, notices


def _refuse_unknown(kind: Any) -> None:
    if kind not in list(MethodType):
        raise problem("method.type", f"The method {kind!r} does not exist. Use one of {_TYPES}.")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _with_top_level(
    settings: dict[str, Any], top: dict[str, Any], kind: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Move the deprecated top-level hyperparameters into the method.

    Return the top-level ones that remain, the settings, and the names of the moved ones with their paths.
    """
    top = openai_fields.without_neutral(top)
    own = settings.get("hyperparameters", {})
    if not isinstance(own, dict):
        return top, settings, {}
    added = openai_fields.REINFORCEMENT_HYPERPARAMETERS if kind == "reinforcement" else ()
    names = {*PlainHyperparameters.model_fields, *added}
    moved = {name: value for name, value in top.items() if name in names and value not in _UNSET}
    for name, value in moved.items():
        if own.get(name, "auto") not in ("auto", value):
            raise problem(
                f"hyperparameters.{name}",
                f"`hyperparameters.{name}` is {value!r}, but `method.{kind}.hyperparameters.{name}` is "
                f"{own[name]!r}. Send only the latter.",
            )
    kept = {name: value for name, value in top.items() if name not in added}
    paths = {name: f"hyperparameters.{name}" for name in moved}
    return kept, settings | {"hyperparameters": own | moved}, paths


def _merged(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Merge `extra` into `base`, object by object. A grader is replaced as a whole."""
    result = dict(base)
    for key, value in extra.items():
        current = result.get(key)
        is_replaced = key == "grader" or not isinstance(current, dict) or not isinstance(value, dict)
        result[key] = value if is_replaced else _merged(current or {}, value)
    return result
