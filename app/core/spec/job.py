"""The job spec: the method and its settings, validated before anything is stored.

The same objects travel from the API through Postgres to the trainer; nothing else describes a job.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from app.core.spec.demonstrations import Demonstrations, GradedDemonstrations
from app.core.spec.frozen import Frozen
from app.core.spec.gates import MAX_GATES, AliasName, GateText
from app.core.spec.graders import Grader
from app.core.spec.integrations import MAX_INTEGRATIONS, Integration
from app.core.spec.policy_loss import PolicyLossSettings
from app.core.spec.resources import Resources
from app.core.spec.sharding import Sharding
from app.core.spec.teacher_answers import BaseUrl, Spent, TeacherBudget, TeacherModel
from app.core.spec.template_variables import TemplateVariables

MAX_ANSWERS: Final = 64
"""Most rollouts of a group, and most sampled answers to a held-out row."""
DEFAULT_BETA: Final = 0.1
"""The value of OpenAI and of TRL."""

Auto = Literal["auto"]
BasePrecision = Literal["native", "4bit"]
ModuleName = Annotated[str, Field(max_length=128)]


class MethodType(StrEnum):
    """How a job learns; see docs/method.md."""

    supervised = "supervised"
    dft = "dft"
    dpo = "dpo"
    reinforcement = "reinforcement"
    gft = "gft"


class GroupMix(Frozen):
    """The largest number of members per source in a group. A row with fewer teacher answers has a smaller group."""

    expert: Annotated[int, Field(ge=0, le=1)] = 1
    """The row's own demonstration."""
    teacher: Annotated[int, Field(ge=0, le=32)] = 3
    """The row's `teacher_responses`; the job's `teacher` supplies the rest where a row has fewer."""
    self_: Annotated[int, Field(ge=0, le=MAX_ANSWERS, alias="self")] = 4
    """Rollouts of the current policy."""

    @property
    def size(self) -> int:
        return self.expert + self.teacher + self.self_


class Sampling(Frozen):
    """Sampling settings of rollouts. All log-probs use the same temperature."""

    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Samples from the most probable tokens that together have this probability."""
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 256
    """Longest rollout in tokens."""


class Teacher(Frozen):
    """A stronger model that writes the teacher answers that the rows lack."""

    model: TeacherModel
    """A model of the server at `base_url`; else a base model of this installation or of the operator's server."""
    base_url: BaseUrl | None = None
    """Base URL of an OpenAI-compatible server, up to `/v1`. Its API key is one of the project's teacher keys."""
    sampling: Sampling | None = None
    """Defaults to the job's own `sampling`."""
    budget: TeacherBudget = TeacherBudget()
    """Limits of what the job may spend on its teacher."""

    def identity(self, place: str, default: Sampling) -> dict[str, object]:
        """Return what its answers depend on in addition to the prompt; `place` is the server's address or `local`."""
        return {"place": place, "model": self.model, **(self.sampling or default).model_dump()}


class Lora(Frozen):
    """The trained adapter."""

    r: Annotated[int, Field(ge=1, le=512)] = 16
    """Rank of the matrices."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """Scale of the adapter's change, divided by `r`."""
    target_modules: Literal["all-linear"] | Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=64)] = (
        "all-linear"
    )
    """The linear layers that get an adapter: all except the output layer, or those with these names."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that an input of the adapter is dropped in training."""
    use_dora: bool = False
    """Weight-decomposed LoRA (DoRA): trains direction and magnitude separately; slower."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r, which keeps high ranks trainable."""


class Hyperparameters(Frozen):
    """Batching, learning rate, evaluation intervals. `resolve` in `plan` fills in `auto` values."""

    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    """Prompts (groups) per optimiser step."""
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000)] | Auto = "auto"
    """Multiplied by the base learning rate of the method (`BASE_LEARNING_RATE`)."""
    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto = "auto"
    """Number of passes over the training file."""
    max_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Ends training early; the learning-rate schedule takes it into account."""
    lora: Lora = Lora()
    """The adapter that is trained."""
    base_precision: BasePrecision = "native"
    """Precision of the frozen base: as stored, or 4-bit NF4 (QLoRA): a quarter of bf16's memory, but slower."""
    sharding: Sharding = "auto"
    """Whether each process holds all of the frozen base (`none`) or a part (`full`). auto: a part if not all fits."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """After a warm-up, `constant` keeps the learning rate; `cosine` lowers it to a tenth along half a cosine."""
    eval_interval: Annotated[int, Field(ge=1, le=1_000_000)] | Auto = "auto"
    """Steps between two evaluations of the held-out rows."""
    eval_samples: Annotated[int, Field(ge=1, le=1_000_000)] | Auto = "auto"
    """Held-out rows used by each evaluation. In a `reinforcement` request the field means `pass_samples` instead."""
    checkpoint_interval: Annotated[int, Field(ge=1, le=1_000_000)] | Auto = "auto"
    """Steps between two checkpoints."""
    max_length: Annotated[int, Field(ge=16, le=131_072)] = 2048
    """Prompt plus response, in tokens; longer demonstrations are skipped with a warning."""


class Evaluation(Frozen):
    """How held-out rows are evaluated; `hyperparameters.eval_interval` says how often."""

    pass_samples: Annotated[int, Field(ge=0, le=MAX_ANSWERS)] = 0
    """Sampled answers per row for `eval/pass@k` (OpenAI's `eval_samples`); 0 skips them. The greedy answer is always
    graded."""
    patience: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Training ends after this many evaluations in a row without a better mean reward; null means never."""


class _GradedGroups(Frozen):
    """The fields that the validators of `PolicyLossSettings` read."""

    grader: Grader
    """Computes the reward of every member of a group."""
    group: GroupMix = GroupMix()
    """The largest number of members per source in a group."""


class GroupMethod(PolicyLossSettings, _GradedGroups):
    """Settings of the methods that learn from groups (`gft`, `reinforcement`)."""

    tau: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Tokens with a probability below tau are weighted by that probability (DCR)."""
    demonstrations: Demonstrations = "all"
    """`graded`: the group of a row whose demonstration does not pass the grader has no expert."""
    sampling: Sampling = Sampling()
    """How rollouts are sampled."""
    train_reasoning: bool = True
    """Whether the thoughts of a demonstration (`reasoning_content`) are trained; else they are context only."""
    teacher: Teacher | None = None
    """The model that writes missing teacher answers; without it only the rows' own `teacher_responses` are used."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """Batching, learning rate, adapter and intervals."""
    evaluation: Evaluation = Evaluation()
    """How held-out rows are evaluated."""

    @field_validator("group")
    @classmethod
    def _has_contrast(cls, group: GroupMix) -> GroupMix:
        if group.self_ == 0 and group.teacher == 0:
            raise ValueError(
                "an expert-only group has no contrast and would train nothing: set group.self to at least 1 "
                "(the default is 4), or use method.type 'supervised'"
            )
        if group.size < 2:
            raise ValueError("a group needs at least 2 members to have advantages: raise group.teacher or group.self")
        return group

    @field_validator("teacher")
    @classmethod
    def _is_asked(cls, teacher: Teacher | None, info: ValidationInfo) -> Teacher | None:
        group = info.data.get("group")
        if teacher is not None and isinstance(group, GroupMix) and group.teacher == 0:
            raise ValueError("would never be used: set group.teacher to at least 1, or remove `teacher`")
        if teacher is not None and info.data.get("resampling_rounds"):
            raise ValueError(
                "cannot be combined with resampling_rounds: a teacher answers the planned prompts of a step only. "
                "Remove one of the two"
            )
        return teacher


class ImitationMethod(Frozen):
    """Settings of the methods that learn only from demonstrations (`supervised`, `dft`)."""

    train_turns: Literal["all", "last"] = "all"
    """Whether every assistant message of a row is trained whose `weight` is not 0, or only the final one."""
    train_reasoning: bool = True
    """Whether the thoughts before an answer (`reasoning_content`) are trained; else they are context only."""
    grader: Grader | None = None
    """Grades answers to held-out rows, and with `demonstrations` of `graded` also the demonstrations."""
    demonstrations: Demonstrations = "all"
    """`graded`: a row is left out unless its demonstration passes the grader."""
    sampling: Sampling = Sampling()
    """How answers to held-out rows are sampled."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """Batching, learning rate, adapter and intervals."""
    evaluation: Evaluation = Evaluation()
    """How held-out rows are evaluated."""


class PreferenceHyperparameters(Hyperparameters):
    """OpenAI has `beta` among the hyperparameters."""

    beta: Annotated[float, Field(gt=0, le=10)] | Auto = "auto"
    """How strongly the policy is held to the reference, the model that training starts from; auto means 0.1."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Probability that a pair is labelled the wrong way round (conservative DPO)."""

    @property
    def resolved_beta(self) -> float:
        return DEFAULT_BETA if self.beta == "auto" else self.beta


class PreferenceMethod(Frozen):
    """Settings of the method that learns from pairs of a preferred and a non-preferred answer (`dpo`)."""

    train_reasoning: bool = True
    """Whether the thoughts before an answer (`reasoning_content`) are trained; else they are context only."""
    grader: Grader | None = None
    """Used only for held-out evaluation."""
    sampling: Sampling = Sampling()
    """How answers to held-out rows are sampled."""
    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()
    """Batching, learning rate, adapter and intervals."""
    evaluation: Evaluation = Evaluation()
    """How held-out rows are evaluated."""


Settings = GroupMethod | ImitationMethod | PreferenceMethod
SETTINGS: Final[dict[MethodType, type[Settings]]] = {
    MethodType.supervised: ImitationMethod,
    MethodType.dft: ImitationMethod,
    MethodType.dpo: PreferenceMethod,
    MethodType.reinforcement: GroupMethod,
    MethodType.gft: GroupMethod,
}


class JobSpec(Frozen):
    """Everything that describes a job, as accepted by `POST /v1/fine_tuning/jobs`."""

    model: str
    """A base model in the registry, or a trained model of the project, whose adapter is trained further."""
    method: MethodType
    settings: Settings
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)]
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    metadata: dict[str, str] | None = None
    gates: Annotated[tuple[GateText, ...], Field(max_length=MAX_GATES)] = ()
    """Conditions on the published model's held-out results; the job fails if one does not hold."""
    control: MethodType | None = None
    """The method of a second job on the same rows, with the same seed and budget, that this job is compared with."""
    alias: AliasName | None = None
    """This alias points to the published model once the job has succeeded."""
    chat_template_kwargs: TemplateVariables = Field(default_factory=dict)
    """Variables of the model's chat template, such as `enable_thinking`; the same as for inference."""
    integrations: Annotated[tuple[Integration, ...], Field(max_length=MAX_INTEGRATIONS)] = ()
    """Trackers that also receive the job's metrics."""
    resources: Resources = Resources()
    """The workers that may train the job."""
    typed_form: bool = False
    """The client sent a gft job as method `reinforcement` plus the extra field `gft`; responses use the same form."""
    lora_resolved: bool = False
    """Whether `lora` holds the settings of the adapter that the job starts from, which must agree with its files."""

    @field_validator("settings", mode="before")
    @classmethod
    def _of_the_method(cls, settings: object, info: ValidationInfo) -> object:
        """Settings of several methods can have the same fields; the method selects the kind."""
        if (method := info.data.get("method")) is None:  # refused already
            return settings
        kind = SETTINGS[method]
        if isinstance(settings, Settings) and not isinstance(settings, kind):
            raise ValueError(f"method '{method}' needs {kind.__name__}")
        # This call does not inherit `extra` of the outer one.
        return kind.model_validate(settings, extra=(info.context or {}).get("extra"))

    @property
    def hyperparameters(self) -> Hyperparameters:
        return self.settings.hyperparameters

    @property
    def tau(self) -> float:
        """Threshold of the bounded coefficient: fixed by the method, or chosen by a gft job."""
        match self.method:
            case MethodType.gft:
                return self.settings.tau if isinstance(self.settings, GroupMethod) else 0.0
            case MethodType.dft:
                return 1.0
            case _:
                return 0.0

    @property
    def teacher(self) -> Teacher | None:
        return self.settings.teacher if isinstance(self.settings, GroupMethod) else None

    @property
    def grades_demonstrations(self) -> bool:
        """Whether only demonstrations that pass the grader are trained."""
        return not isinstance(self.settings, PreferenceMethod) and self.settings.demonstrations == "graded"

    @property
    def train_turns(self) -> Literal["all", "last"]:
        """Which assistant messages of a row are trained: group methods sample and compare final answers only."""
        return self.settings.train_turns if isinstance(self.settings, ImitationMethod) else "last"

    @property
    def group(self) -> GroupMix:
        """The members of a group; a pair of preferences has none of these sources."""
        match self.settings:
            case GroupMethod(group=group):
                return group
            case ImitationMethod():
                return GroupMix(expert=1, teacher=0, self_=0)
            case PreferenceMethod():
                return GroupMix(expert=0, teacher=0, self_=0)


BASE_LEARNING_RATE: Final[dict[MethodType, float]] = {
    MethodType.supervised: 1e-4,
    MethodType.dft: 1e-4,
    MethodType.dpo: 1e-5,
    MethodType.reinforcement: 1e-5,
    MethodType.gft: 1e-5,
}


class TrainerSpec(Frozen):
    """`RUN_DIR/spec.json`: everything that the trainer subprocess needs; paths are absolute."""

    job_id: str
    attempt: int = 1
    """The number of this attempt at the job, from 1."""
    spec: JobSpec
    base_model_dir: str
    """Directory with config, tokenizer and safetensors of the base model."""
    base_hub_id: str | None = None
    """The base model's repository on the Hugging Face hub; None if it is known on this machine only."""
    base_revision: str | None = None
    """The commit in that repository, if known."""
    adapter_path: str | None = None
    """Directory of the PEFT adapter to start from; None creates a new adapter."""
    context_length: int | None = None
    """Most tokens of prompt and answer together that the base model supports, if its config states it."""
    created_at: datetime | None = None
    """When the job was created: the date that chat templates write, in every attempt."""
    training_path: str
    validation_path: str | None
    test_path: str | None = None
    rows: dict[str, Any] = Field(default_factory=dict)
    """The use of the files' rows as earlier attempts have counted and reported it, in the form of `Started.rows`."""
    demonstrations: GradedDemonstrations | None = None
    """The grades of earlier attempts: no demonstration is graded twice, and all attempts train the same rows."""
    rejected_lines: tuple[int, ...] = ()
    """Lines of the training file whose demonstration earlier attempts have rejected."""
    resume_from: str | None = None
    """Directory of a checkpoint of this job."""
    budget_of: JobSpec | None = None
    """The job that this control is compared with: it decides batch size and number of steps."""
    threads: int = 0
    """CPU threads of each process; 0 uses all cores."""
    processes: int = 1
    """Processes of this worker that share each step's groups, one per GPU."""
    nodes: int = 1
    """Workers that train the job together, each with as many processes."""
    node: int = 0
    """The number of this worker among them; worker 0 reports."""
    rollout_urls: tuple[str, ...] = ()
    """URLs of the vLLM servers that sample rollouts together; without one they are sampled in the trainer."""
    rollout_shares_device: bool = False
    """Whether these servers use this worker's devices: they sleep while the trainer computes."""
    judge_url: str | None = None
    """URL of the server that runs judge models."""
    allowed_private_hosts: tuple[str, ...] = ()
    """Private hosts that `endpoint` graders and teachers may reach."""
    teacher_url: str | None = None
    """URL of the server that writes teacher answers."""
    teacher_is_operators: bool = False
    """Whether the operator configured that server, which may then have any address."""
    teacher_model_dir: str | None = None
    """Directory of the base model that writes teacher answers instead."""
    teacher_answers_path: str | None = None
    """JSONL file of the stored `TeacherAnswer`s to this job's questions."""
    teacher_spent: Spent = Spent()
    """The part of the teacher budget that earlier attempts used."""
