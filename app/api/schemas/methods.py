"""The field `method` of a job, in the form that clients send."""

from typing import Annotated, Literal

from pydantic import Field

from app.core.spec.frozen import Frozen
from app.core.spec.graders import Grader
from app.core.spec.job import (
    Evaluation,
    GroupMethod,
    GroupMix,
    Hyperparameters,
    ImitationMethod,
    PreferenceMethod,
    Sampling,
)
from app.core.spec.policy_loss import PolicyLossSettings


class RolloutsOnly(Frozen):
    """The group of a reinforcement job."""

    expert: Literal[0] = 0
    """Always 0: demonstrations are not trained."""
    teacher: Literal[0] = 0
    """Always 0: teacher answers are not trained."""
    self_: Annotated[int, Field(ge=2, le=64, alias="self")] = 8
    """Rollouts of the current policy for each prompt."""


class _GradedRollouts(Frozen):
    """The fields that the validators of `PolicyLossSettings` read."""

    grader: Grader
    """Computes the reward of every rollout."""
    group: RolloutsOnly = RolloutsOnly()
    """The number of rollouts for each prompt."""


class Reinforcement(PolicyLossSettings, _GradedRollouts):
    """Trains on graded rollouts of the model itself."""

    sampling: Sampling = Sampling()
    """How rollouts are sampled."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """Batching, learning rate, adapter and intervals."""
    evaluation: Evaluation = Evaluation()
    """How held-out rows are evaluated."""


class Gft(Frozen):
    """Group Fine-Tuning: demonstrations, teacher answers and rollouts, compared within their group."""

    type: Literal["gft"]
    gft: GroupMethod
    """Settings of the method."""

    @property
    def settings(self) -> GroupMethod:
        return self.gft


class Supervised(Frozen):
    """Trains on the demonstrations."""

    type: Literal["supervised"]
    supervised: ImitationMethod = ImitationMethod()
    """Settings of the method."""

    @property
    def settings(self) -> ImitationMethod:
        return self.supervised


class Dft(Frozen):
    """Trains on the demonstrations, each token weighted by its probability."""

    type: Literal["dft"]
    dft: ImitationMethod = ImitationMethod()
    """Settings of the method."""

    @property
    def settings(self) -> ImitationMethod:
        return self.dft


class Dpo(Frozen):
    """Direct preference optimisation: trains on pairs of a preferred and a non-preferred answer."""

    type: Literal["dpo"]
    dpo: PreferenceMethod = PreferenceMethod()
    """Settings of the method."""

    @property
    def settings(self) -> PreferenceMethod:
        return self.dpo


class ReinforcementForm(Frozen):
    """OpenAI's form of reinforcement fine-tuning."""

    type: Literal["reinforcement"]
    reinforcement: Reinforcement
    """Settings of the method."""

    @property
    def settings(self) -> GroupMethod:
        sent = self.reinforcement
        return GroupMethod(
            grader=sent.grader,
            group=GroupMix(expert=0, teacher=0, self_=sent.group.self_),
            **{name: getattr(sent, name) for name in PolicyLossSettings.model_fields},
            sampling=sent.sampling,
            hyperparameters=sent.hyperparameters,
            evaluation=sent.evaluation,
        )


Method = Annotated[Gft | Supervised | Dft | Dpo | ReinforcementForm, Field(discriminator="type")]
