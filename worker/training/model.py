"""The policy: a frozen base model with a LoRA adapter, split into trunk (hidden states) and output head."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from app.core.spec.job import BasePrecision, Lora
from app.core.spec.reports import TrainerExit
from worker.training import lora as lora_product
from worker.training.attention import SMALL_SCORES
from worker.training.base_model import load_base
from worker.training.batching import Packed, pack
from worker.training.lm_head import CHUNK_ELEMENTS, head_of, token_logprobs
from worker.training.recompute import recompute_activations
from worker.training.types import JobFailure

_PROBE_TOLERANCE: Final = 0.25
"""In nats. bf16 rounding in a deep model stays well below it; a missing scale or cap exceeds it."""


class Policy:
    """Base model + adapter on one device. `version` counts the optimiser steps the adapter has seen."""

    def __init__(self, model: PeftModel, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.version = 0
        self.is_base = False
        """Whether the adapter is off, within `base_only`."""
        self.small_scores = SMALL_SCORES
        """Scores per head up to which packed attention on a CPU uses plain products."""
        self.chunk_elements = CHUNK_ELEMENTS
        """Logits that exist at a time."""
        causal: Any = model.get_base_model()
        self.trunk: Any = causal.base_model
        """Embeddings and layers; its output is the last hidden states."""
        self.causal: Any = causal
        self.head = head_of(causal)
        self._start: dict[str, Tensor] | None = None
        model.eval()  # no base-model dropout: sampler and trainer must compute the same log-probs
        self._dropouts = [
            dropout
            for layer in model.modules()
            if isinstance(layer, LoraLayer)
            for dropout in layer.lora_dropout.values()
        ]

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters by name: fp32, in a fixed order."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    @property
    def base_parameters(self) -> int:
        """The number of parameters of the frozen base model."""
        trained, total = self.model.get_nb_trainable_parameters()  # counts packed 4-bit weights correctly
        return total - trained

    @contextmanager
    def dropping(self, seed: int) -> Iterator[None]:
        """Turns LoRA dropout on within the block, for an update. `seed` determines what is dropped."""
        torch.manual_seed(seed)
        for dropout in self._dropouts:
            dropout.train()
        yield
        for dropout in self._dropouts:
            dropout.eval()

    def hidden(self, ids_B_T: Tensor, attention_B_T: Tensor, **options: Any) -> Any:
        """Returns the trunk's output for padded ids."""
        return self.trunk(input_ids=ids_B_T, attention_mask=attention_B_T, **options)

    def packed_hidden(self, batch: Packed) -> Tensor:
        """Returns the last hidden states [T, H] of packed groups."""
        output = self.trunk(
            input_ids=batch.ids_1_T,
            position_ids=batch.positions_1_T,
            # transformers passes a 4D mask through unchanged. `attend` ignores it and masks by the layout instead.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            use_cache=False,
            layout=batch.layout,
            small_scores=self.small_scores,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Turns the adapter off within the block, so that the policy is the base model."""
        with self.model.disable_adapter():
            self.is_base = True
            try:
                yield
            finally:
                self.is_base = False

    def keep_start(self) -> None:
        """Keeps a copy of the current adapter, from which a warm start begins, for `starting`."""
        self._start = {name: value.detach().clone() for name, value in self.trained.items()}

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Makes the policy the one that training started from within the block, without dropout; for no gradients.

        That is the base model, or the adapter of `keep_start`.
        """
        if self._start is None:
            with self.base_only():
                yield
            return
        current = {name: value.detach().clone() for name, value in self.trained.items()}
        modes = [dropout.training for dropout in self._dropouts]
        self._set_adapter(self._start)
        for dropout in self._dropouts:
            dropout.eval()
        try:
            yield
        finally:
            self._set_adapter(current)
            for dropout, mode in zip(self._dropouts, modes, strict=True):
                dropout.train(mode)

    @torch.no_grad()
    def _set_adapter(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(values[name])

    def predicting_states(self, batch: Packed) -> Tensor:
        """Returns the hidden states [N, H] that predict each trained token."""
        return self.packed_hidden(batch).index_select(0, batch.predictor_N)

    def logprobs(self, batch: Packed, temperature: float) -> tuple[Tensor, Tensor]:
        """Returns log p of each trained token and the entropy of its distribution, both [N], at `temperature`."""
        states_N_H = self.predicting_states(batch)
        return token_logprobs(states_N_H, self.head, batch.tokens_N, temperature, chunk_elements=self.chunk_elements)

    @torch.no_grad()
    def verify(self) -> None:
        """Checks on a few tokens that trunk, shared prefix and output head together compute the model's own log-probs.

        Architectures modify attention scores and logits in different ways. An unsupported way would silently train on
        wrong probabilities; this raises `JobFailure` instead.
        """
        vocabulary = self.head.weight_V_H.shape[0]
        prompt, *responses = (tuple((7 * i + k) % vocabulary for i in range(1, 7)) for k in (0, 3, 11))
        batch = pack([[(prompt, response) for response in responses]], self.device)
        packed_N, _ = self.logprobs(batch, 1.0)
        expected: list[Tensor] = []
        for response in responses:
            ids = torch.tensor([[*prompt, *response]], device=self.device)
            logits = self.causal(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            expected.append(logits.float().log_softmax(-1).gather(-1, ids[0, len(prompt) :, None]).squeeze(-1))
        error = float((packed_N - torch.cat(expected)).abs().max())
        if not error < _PROBE_TOLERANCE:
            raise JobFailure(
                TrainerExit.bad_config,
                "unsupported_architecture",
                f"Models of type '{self.causal.config.model_type}' are not supported: the trainer's log-probabilities "
                f"differ from the model's own by {error:.2g} nats. Choose another model.",
                "model",
            )


def pick_device() -> torch.device:
    """Returns this rank's CUDA device, or the CPU without one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def load_policy(
    directory: Path,
    lora: Lora,
    seed: int,
    dtype: torch.dtype | None = None,
    adapter: Path | None = None,
    precision: BasePrecision = "native",
) -> Policy:
    """Loads the base model of `directory` in its own dtype (or `dtype`) with an fp32 LoRA adapter.

    The adapter is loaded from the directory `adapter`, or is new with initial values that depend on `seed` only. Raises
    `JobFailure` for target modules that the model lacks, an adapter whose shape differs from `lora`, and a precision
    that this machine does not support.
    """
    device = pick_device()
    base = load_base(directory, device, dtype, precision)
    model = _new_adapter(base, lora, seed) if adapter is None else _load_adapter(base, lora, adapter)
    lora_product.fuse(model)
    recompute_activations(model)
    policy = Policy(model, device)
    policy.verify()
    return policy


def _new_adapter(base: Any, lora: Lora, seed: int) -> PeftModel:
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
    )
    torch.manual_seed(seed)
    try:
        # autocast_adapter_dtype keeps the adapter in fp32 on a bf16 base: updates of 1e-5 vanish in bf16.
        model: PeftModel = get_peft_model(base, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise JobFailure(
            TrainerExit.bad_config, "invalid_lora", str(error), "method.hyperparameters.lora.target_modules"
        ) from error
    return model


def _shape(lora: Lora) -> tuple[object, ...]:
    return lora.r, lora.alpha, lora.use_dora, lora.use_rslora


def _shape_of(config: Any) -> tuple[object, ...]:
    return config.r, config.lora_alpha, config.use_dora, config.use_rslora


def _load_adapter(base: Any, lora: Lora, directory: Path) -> PeftModel:
    model = PeftModel.from_pretrained(base, str(directory), is_trainable=True, autocast_adapter_dtype=True)
    loaded: Any = model.peft_config["default"]
    if lora != Lora() and _shape(lora) != _shape_of(loaded):
        raise JobFailure(
            TrainerExit.bad_config,
            "invalid_lora",
            f"The adapter to start from has r {loaded.r} and alpha {loaded.lora_alpha}: omit hyperparameters.lora, or "
            "set the same values.",
            "method.hyperparameters.lora",
        )
    return model
