"""Runs a GGUF file in llama.cpp, in this process, through the package xllamacpp."""

import json
import os
import secrets
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.request import Request, urlopen

from app.core.spec.export import ExportRefused


class Position(NamedTuple):
    """One token of an answer."""

    token: int
    logprobs: dict[int, float]
    """Log-probabilities of the most likely tokens at this position, by token id; empty for a part of a character."""


def require_llama_cpp() -> Any:
    """Return the package xllamacpp. Raises `ExportRefused` if it is not installed."""
    try:
        return import_module("xllamacpp")
    except ImportError as error:
        raise ExportRefused(
            "export_engine_missing",
            "GGUF files are checked in llama.cpp, which this worker lacks. Install it with "
            "`pip install 'grouptune[export]'` where the workers run.",
        ) from error


class LlamaCpp:
    """A model that is loaded in llama.cpp, on the CPU, with a cache in float32."""

    def __init__(self, model: Path, adapter: Path | None = None, context: int = 1024) -> None:
        self._model = model
        self._adapter = adapter
        self._context = context
        self._server: Any = None
        self._key = secrets.token_hex(16)

    def __enter__(self) -> Self:
        """Load the model. Raises `ExportRefused` if llama.cpp rejects the file."""
        xllamacpp = require_llama_cpp()
        settings = xllamacpp.CommonParams()
        settings.model.path = str(self._model)
        settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = self._context, 1, 0
        # llama.cpp's threads wait for each other in busy loops: on cores that a trainer uses, too, more are slower.
        threads = max(1, len(os.sched_getaffinity(0)) // 4)
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.warmup = settings.fit_params = settings.ui = False
        settings.swa_full = True  # keeps what a sliding window has passed, so that an answer continues from the cache
        settings.port, settings.verbosity, settings.api_keys = 0, 0, [self._key]
        if self._adapter is not None:
            loaded = xllamacpp.CommonAdapterLoraInfo()
            loaded.path, loaded.scale = str(self._adapter), 1.0
            settings.lora_adapters = [loaded]
        try:
            self._server = xllamacpp.Server(settings)
        except (RuntimeError, ValueError) as error:
            raise ExportRefused("export_check_failed", f"llama.cpp cannot load the export: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server = None  # its destructor stops its threads

    def answer(self, prompt: Sequence[int], tokens: int, alternatives: int) -> list[Position]:
        """Return the greedy answer to a prompt of token ids, up to an end token or `tokens`."""
        answer: list[Position] = []
        while len(answer) < tokens:
            # One token a request: of several, llama.cpp reports no log-probabilities for parts of a character, and does
            # not say which tokens they were.
            request = {
                "prompt": [*prompt, *(position.token for position in answer)],
                "n_predict": 1,
                "temperature": 0,
                "n_probs": alternatives,
                "return_tokens": True,
                "cache_prompt": True,
            }
            found = self._post("/completion", request)
            entries = found.get("completion_probabilities", ())
            likely = {top["id"]: top["logprob"] for entry in entries for top in entry["top_logprobs"]}
            answer.append(Position(found["tokens"][0], likely))
            if found["stop_type"] == "eos":
                break
        return answer

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """Return the token ids of a text; with `special`, special tokens in it are recognised."""
        body = {"content": text, "add_special": False, "parse_special": special}
        found: list[int] = self._post("/tokenize", body)["tokens"]
        return found

    def chat(self, messages: list[dict[str, Any]]) -> str:
        """Return a chat as llama.cpp renders it with the template in the file."""
        text: str = self._post("/apply-template", {"messages": messages})["prompt"]
        return text

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        address = f"{self._server.listening_address}{path}"
        request = Request(address, json.dumps(body).encode(), headers)  # noqa: S310 - the own process, on loopback
        with urlopen(request, timeout=60) as response:  # noqa: S310
            found: dict[str, Any] = json.load(response)
        return found
