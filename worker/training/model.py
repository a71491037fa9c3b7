"""The policy: a frozen base model with a LoRA adapter, and the two paths to its log-probabilities."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from app.core.spec.experts import experts_of
from app.core.spec.job import BasePrecision, Lora
from app.core.spec.plan import TOKEN_BUDGET, activation_bytes, token_budget
from app.core.spec.reports import TrainingPath
from app.core.spec.sharding import Sharding
from worker.training import lora as lora_product
from worker.training.adapter import load_adapter, new_adapter
from worker.training.attention import CPU_LIMITS, IMPLEMENTATION
from worker.training.base_model import load_base, unsupported_on_error
from worker.training.batching import Packed, pack
from worker.training.distributed import Ranks
from worker.training.heap import return_freed
from worker.training.lm_head import Head, check_frozen, chunk_elements, head_of, token_logprobs
from worker.training.plain_path import PlainPath
from worker.training.recompute import recompute_activations, save_activations
from worker.training.self_check import ordinary_tokens, select_path
from worker.training.sharding import ShardedBase, may_shard, needs_sharding


class Policy:
    """Base model + adapter on one device. `version` counts the optimiser steps the adapter has seen.

    Log-probabilities come by one of two paths. `fast` shares prefixes in packed rows and replaces the forward pass of
    several layers; `plain` is transformers' own forward pass. `select_path` decides.
    """

    def __init__(self, model: PeftModel, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.version = 0
        self.path = TrainingPath(name="plain", reason="not compared with transformers yet")
        self.uses_cache = True
        """Whether the plain path samples with transformers' cache. `check_sampler` decides."""
        self.decodes_exactly = True
        """Whether greedy answers on a CPU are decoded as the inference engine does. `check_sampler` decides."""
        self.sharded: ShardedBase | None = None
        """The base model as the ranks share it; None if each has the whole one."""
        self.notes: list[str] = []
        """Sentences for the job's events about how the base model was loaded."""
        self.is_base = False
        """Whether the adapter is off, within `base_only`."""
        self.is_start = False
        """Whether the adapter is the one of `keep_start`, within `starting`."""
        self.cpu_limits = CPU_LIMITS
        """At which sizes packed attention on a CPU is computed another way."""
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
        self.chunk_elements = chunk_elements(free)
        """Logits that exist at a time."""
        causal: Any = model.get_base_model()
        self.trunk: Any = causal.base_model
        """Embeddings and layers; its output is the last hidden states."""
        self.causal: Any = causal
        self._start: dict[str, Tensor] | None = None
        self.own_attention = str(causal.config._attn_implementation)
        """The attention that transformers selects for this architecture."""
        check_frozen(causal)
        model.eval()  # no base-model dropout: sampler and trainer must compute the same log-probs
        self._plain = PlainPath(causal, device)
        self._dropouts = [
            dropout
            for layer in model.modules()
            if isinstance(layer, LoraLayer)
            for dropout in layer.lora_dropout.values()
        ]

    @property
    def is_fast(self) -> bool:
        """Whether prefixes are shared."""
        return self.path.name == "fast"

    @property
    def head(self) -> Head:
        """The output head. Raises `UnknownHead` if it is no plain matrix; the plain path does not need it.

        Of a sharded base, its weights can be read after a pass of the same lockstep only.
        """
        return head_of(self.causal)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters by name: fp32, in a fixed order."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    @cached_property
    def base_parameters(self) -> int:
        """The number of parameters of the frozen base model."""
        trained, total = self.model.get_nb_trainable_parameters()  # counts packed 4-bit weights correctly
        return total - trained

    @cached_property
    def active_parameters(self) -> int:
        """The number of them that compute a token: all but the experts that a mixture's router leaves out."""
        experts = experts_of(self.causal.config.to_dict())
        if experts is None:
            return self.base_parameters
        frozen = ((name, value.shape) for name, value in self.causal.named_parameters() if not value.requires_grad)
        return experts.active(self.base_parameters, frozen)

    @property
    def token_budget(self) -> int:
        """The most packed tokens of a micro-batch, from the GPU's free memory. Those of a sharded base cannot shrink,
        so they stay small."""
        if self.device.type != "cuda" or self.sharded is not None:
            return TOKEN_BUDGET
        config = self.causal.config.get_text_config()
        hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)
        inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        kept = activation_bytes(layers, hidden, inner, self.causal.dtype.itemsize)
        return token_budget(torch.cuda.mem_get_info(self.device)[0], kept)

    def use_fast(self) -> None:
        """Switches to the fast path. Raises various errors for architectures that lack its parts."""
        self.causal.set_attn_implementation(IMPLEMENTATION)
        lora_product.fuse(self.model)
        recompute_activations(self.model, nullcontext if self.sharded is None else self.sharded.whole)
        _ = self.head
        self.path = TrainingPath(name="fast", reason="")

    def use_plain(self, reason: str, attention: str | None = None) -> None:
        """Switches to transformers' own forward pass, with its `attention` (by default the one that it selects)."""
        lora_product.unfuse(self.model)
        save_activations(self.model)
        self.causal.set_attn_implementation(attention or self.own_attention)
        self.path = TrainingPath(name="plain", reason=reason)

    def shard(self, ranks: Ranks) -> None:
        """Shards the base model over `ranks`. Raises `JobFailure` if that is impossible."""
        _ = self.base_parameters  # counted while 4-bit weights still have their own type
        token = (int(ordinary_tokens(self.causal.config)[0]),)
        idle = pack([[(token, token)]], self.device)
        self.sharded = ShardedBase(self.model, self.device, ranks, lambda: self.logprobs(idle, 1.0)[0])

    def lockstep(self, *, gradients: bool = False) -> AbstractContextManager[None]:
        """Returns a block in which all ranks make the same passes, if the base is sharded. All ranks must enter it.

        `gradients` says whether its passes have backward passes.
        """
        return nullcontext() if self.sharded is None else self.sharded.lockstep(gradients=gradients)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss`, a scalar, to the adapter's."""
        if self.sharded is None:
            loss.backward()
        else:
            self.sharded.backward(loss)

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
        """Returns the trunk's output for padded ids (fast path only)."""
        return self.trunk(input_ids=ids_B_T, attention_mask=attention_B_T, **options)

    def packed_hidden(self, batch: Packed) -> Tensor:
        """Returns the last hidden states [T, H] of packed groups (fast path only)."""
        output = self.trunk(
            input_ids=batch.ids_1_T,
            position_ids=batch.positions_1_T,
            # transformers passes a 4D mask through unchanged. `attend` ignores it and masks by the layout instead.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            use_cache=False,
            layout=batch.layout,
            cpu_limits=self.cpu_limits,
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
        self.is_start = True
        for dropout in self._dropouts:
            dropout.eval()
        try:
            yield
        finally:
            self._set_adapter(current)
            self.is_start = False
            for dropout, mode in zip(self._dropouts, modes, strict=True):
                dropout.train(mode)

    @torch.no_grad()
    def _set_adapter(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(values[name])

    def logprobs(self, batch: Packed, temperature: float | Sequence[float]) -> tuple[Tensor, Tensor]:
        """Returns log p of each trained token and the entropy of its distribution, both [N].

        `temperature` is one for all sequences, or one for each.
        """
        temperatures = [temperature] * len(batch.sequences) if isinstance(temperature, float | int) else temperature
        if not self.is_fast:
            return self._plain.logprobs(batch.sequences, temperatures)
        states_N_H = self.packed_hidden(batch).index_select(0, batch.predictor_N)
        if len(set(temperatures)) == 1:
            return self._read(states_N_H, batch.tokens_N, temperatures[0])
        # One trunk pass serves all sequences; the head runs once per temperature.
        temperature_N = torch.tensor(temperatures, device=self.device)[batch.response_N]
        logprobs_N = states_N_H.new_empty(len(states_N_H), dtype=torch.float32)
        entropies_N = torch.empty_like(logprobs_N)
        for value in dict.fromkeys(temperatures):
            index = (temperature_N == torch.tensor(value)).nonzero().squeeze(-1)
            logprobs, entropies = self._read(states_N_H[index], batch.tokens_N[index], value)
            logprobs_N = logprobs_N.to(logprobs.dtype).index_copy(0, index, logprobs)
            entropies_N = entropies_N.to(entropies.dtype).index_copy(0, index, entropies)
        return logprobs_N, entropies_N

    def _read(self, states_N_H: Tensor, tokens_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        return token_logprobs(states_N_H, self.head, tokens_N, temperature, chunk_elements=self.chunk_elements)


def pick_device() -> torch.device:
    """Returns this rank's CUDA device, or the CPU without one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def load_policy(
    directory: Path,
    lora: Lora | None,
    seed: int,
    dtype: torch.dtype | None = None,
    adapter: Path | None = None,
    precision: BasePrecision = "native",
    max_length: int | None = None,
    sharding: Sharding = "none",
    ranks: Ranks | None = None,
) -> Policy:
    """Loads the base model of `directory` in its own dtype (or `dtype`) with an fp32 LoRA adapter; selects its path.

    The adapter is loaded from the directory `adapter`, or is new with initial values that depend on `seed` only.
    Without `lora`, an adapter keeps its settings, and a new one has the defaults. `max_length` is the length of the
    longest sequence, if it is known. All of `ranks` must load the same policy at the same time; `sharding` says whether
    each holds the whole base model.

    Raises `JobFailure` for target modules that the model lacks, an adapter whose settings differ from `lora`, a
    precision or sharding that this machine does not support, and a model that cannot be trained.
    """
    device, ranks = pick_device(), ranks or Ranks()
    with unsupported_on_error(directory):
        # The host's memory first, if a device may be too small. bitsandbytes quantises on the device.
        is_open = may_shard(sharding, ranks, device)
        place = torch.device("cpu") if is_open and precision == "native" else device
        base, notes = load_base(directory, place, dtype, precision)
        is_sharded = is_open and needs_sharding(sharding, ranks, device, base)
        if not is_sharded and place != device:
            base.to(device)
        model = new_adapter(base, lora or Lora(), seed) if adapter is None else load_adapter(base, lora, adapter)
        policy = Policy(model, device)
        policy.notes += notes
        if is_sharded:
            policy.shard(ranks)
        select_path(policy, max_length)
    return_freed()  # the activations of that comparison, which recomputes none
    return policy
