"""A test server for the part of vLLM's API that rollouts use, over a real model: transformers, plain PEFT, torch.

It shares no code with the trainer. Shapes, statuses and quirks are those of vLLM 0.33: missing parameters come from the
server's defaults, the samples of one request have consecutive seeds, log-probs are computed after temperature and
top-p, an adapter name cannot be loaded twice, and a server that sleeps answers no completion until it wakes up.
Attributes inject faults.
"""

import json
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

Answer = tuple[int, object]

_LOADING = threading.Lock()
"""transformers loads no two models at once."""


@dataclass
class VllmServer:
    """Serves `directory` under the name `name` on a port of 127.0.0.1 while its block runs."""

    directory: Path
    name: str = "tiny"
    api_key: str | None = None
    logprobs_mode: str = "processed_logprobs"
    max_lora_rank: int = 64
    runtime_lora: bool = True
    max_model_len: int = 512
    dev_mode: bool = False
    """VLLM_SERVER_DEV_MODE: has the endpoints of sleep mode."""
    sleep_mode: bool = False
    """--enable-sleep-mode. Without it, a server that sleeps keeps its memory."""

    stale: bool = False
    """Serves the first loaded adapter under every name."""
    hidden: tuple[str, ...] = ()
    """Fields that its responses lack."""
    answers: deque[Answer] = field(default_factory=deque)
    """Canned responses for the next POST requests."""
    lost: int = 0
    """Number of coming POST requests that succeed but whose response is lost: a proxy answers 504."""
    retry_after: str | None = None
    """Header of its errors."""
    silent: threading.Event | None = None
    """Blocks all responses until it is set."""

    names: list[str] = field(default_factory=list)
    """Names of all adapters that were loaded, in order."""
    adapters: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """Path and model of the adapters that are loaded now."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the completion requests."""
    changes: list[str] = field(default_factory=list)
    """Requests to sleep or wake up, and adapters loaded and unloaded, in order."""
    awake: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._base = self._load()
        self.awake.set()
        self._newest: Any = None
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_of": self}))
        # All are joined at the end: transformers loads no two models at once, and the next test loads one.
        self._http.daemon_threads = False
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.silent is not None:
            self.silent.set()
        self.awake.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _load(self, adapter: str | None = None) -> Any:
        with _LOADING:
            model: Any = AutoModelForCausalLM.from_pretrained(self.directory, dtype="auto")
            return (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()

    def get(self, path: str) -> Answer:
        if self.dev_mode and path == "/is_sleeping":
            return 200, {"is_sleeping": not self.awake.is_set()}
        if self.dev_mode and path == "/server_info?config_format=json":
            return 200, {"vllm_config": {"model_config": {"enable_sleep_mode": self.sleep_mode}}}
        if path != "/v1/models":
            return _error(404, "Not Found")
        cards = [{"id": self.name, "root": str(self.directory), "parent": None}]
        cards += [{"id": name, "root": path, "parent": self.name} for name, (path, _) in self.adapters.items()]
        return 200, {"object": "list", "data": cards}

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        if self.silent is not None:
            self.silent.wait(60)
        if self.answers:
            return self.answers.popleft()
        answer = self._do(path, body)
        if self.lost > 0:
            self.lost -= 1
            return 504, "<html>"
        return answer

    def _do(self, path: str, body: dict[str, Any]) -> Answer:
        if path == "/v1/completions":
            self.requests.append(body)
            self.awake.wait(60)
            return self._complete(body)
        if self.dev_mode and path in ("/sleep?level=1", "/wake_up"):
            self.changes.append(path)
            (self.awake.set if path == "/wake_up" else self.awake.clear)()
            return 200, ""
        if not self.runtime_lora or path not in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            return _error(404, "Not Found")
        name = body["lora_name"]
        with self._lock:
            if path == "/v1/load_lora_adapter":
                return self._load_adapter(name, body["lora_path"])
            self.changes.append(f"unload {name}")
            if self.adapters.pop(name, None) is None:
                return _error(404, f"The lora adapter '{name}' cannot be found.")
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def _load_adapter(self, name: str, path: str) -> Answer:
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        config = json.loads((Path(path) / "adapter_config.json").read_text())
        if config["r"] > self.max_lora_rank:
            return _error(500, f"LoRA rank {config['r']} is greater than max_lora_rank {self.max_lora_rank}.")
        self.names.append(name)
        self.changes.append(f"load {name}")
        if not self.stale or self._newest is None:
            self._newest = self._load(path)
        self.adapters[name] = path, self._newest
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _complete(self, body: dict[str, Any]) -> Answer:
        known = {self.name: self._base} | {name: model for name, (_, model) in self.adapters.items()}
        if body["model"] not in known:
            return _error(404, f"The model `{body['model']}` does not exist.")
        if len(body["prompt"]) + body["max_tokens"] > self.max_model_len:
            return _error(400, f"This model's maximum context length is {self.max_model_len} tokens.")
        choices = [self._choice(known[body["model"]], body, index) for index in range(body["n"])]
        return 200, {"object": "text_completion", "model": body["model"], "choices": choices}

    @torch.no_grad()
    def _choice(self, model: Any, body: dict[str, Any], index: int) -> dict[str, Any]:
        random = torch.Generator()
        if body["seed"] is not None:
            random.manual_seed(body["seed"] + index)
        ids: list[int] = []
        logprobs: list[float] = []
        ends = {*body["stop_token_ids"], *([] if body["ignore_eos"] else [model.config.eos_token_id])}
        while len(ids) < body["max_tokens"] and not (ids and ids[-1] in ends):
            logits_V = model(input_ids=torch.tensor([[*body["prompt"], *ids]]), use_cache=False).logits[0, -1].float()
            raw_V = logits_V.log_softmax(-1)
            processed_V = _processed(logits_V, body)
            token = int(processed_V.argmax()) if body["temperature"] == 0 else _draw(processed_V, random)
            ids.append(token)
            logprobs.append(float((raw_V if self.logprobs_mode == "raw_logprobs" else processed_V)[token]))
        choice = {
            "index": index,
            "text": "",
            "logprobs": {"tokens": [f"token_id:{token}" for token in ids], "token_logprobs": logprobs},
            "finish_reason": "stop" if ids[-1] in ends else "length",
            "stop_reason": ids[-1] if ids[-1] in ends else None,
            "token_ids": ids if body.get("return_token_ids") else None,
            "prompt_token_ids": body["prompt"] if body.get("return_token_ids") else None,
        }
        return {name: value for name, value in choice.items() if name not in self.hidden}


def _processed(logits_V: torch.Tensor, body: dict[str, Any]) -> torch.Tensor:
    """Log p after temperature, top-k and top-p; what the request leaves out is as odd as a generation_config may be."""
    logits_V = logits_V / (body["temperature"] or 1.0)
    top_k = body.get("top_k", 1)
    if top_k > 0:
        logits_V = logits_V.where(logits_V >= logits_V.topk(top_k).values[-1], -torch.inf)
    if body["top_p"] < 1 and body["temperature"] > 0:
        ordered, order = logits_V.softmax(-1).sort(descending=True)
        cut = order[ordered.cumsum(-1) - ordered >= body["top_p"]]
        logits_V = logits_V.index_fill(0, cut, -torch.inf)
    return logits_V.log_softmax(-1)


def _draw(logprobs_V: torch.Tensor, random: torch.Generator) -> int:
    return int(torch.multinomial(logprobs_V.exp(), 1, generator=random))


def _error(status: int, message: str) -> Answer:
    return status, {"error": {"message": message, "type": "Error", "param": None, "code": status}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: VllmServer

    def do_GET(self) -> None:
        self._answer(*(self._refused() or self.server_of.get(self.path)))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._answer(*(self._refused() or self.server_of.post(self.path, body)))

    def _refused(self) -> Answer | None:
        key = self.server_of.api_key
        wrong = key is not None and self.headers["authorization"] != f"Bearer {key}"
        return (401, {"error": "Unauthorized"}) if wrong else None

    def _answer(self, status: int, body: object) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        with suppress(BrokenPipeError, ConnectionResetError):  # of a client that has given up
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            if status >= 400 and self.server_of.retry_after is not None:
                self.send_header("retry-after", self.server_of.retry_after)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""
