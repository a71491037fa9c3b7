"""The model card of a pushed model: what it was made from, how it was trained, and what it measured."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from app.core.spec.export import ExportSpec, TrainingFacts
from worker.training.merge.model import loader_name

_YAML_WORD: Final = re.compile(r"[A-Za-z0-9][\w.+/-]*")
_ADAPTER: Final = """```python
from peft import PeftModel
from transformers import {loader}, AutoTokenizer

base = {loader}.from_pretrained("{base}", dtype="auto")
model = PeftModel.from_pretrained(base, "{repository}")
tokenizer = AutoTokenizer.from_pretrained("{base}")
```"""
_MERGED: Final = """```python
from transformers import {loader}, AutoTokenizer

model = {loader}.from_pretrained("{repository}", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("{repository}")
```"""


def card(spec: ExportSpec, license: str | None, notes: Iterable[str] = ()) -> str:
    """Return the text of README.md; `license` is the base model's, `notes` are sentences about the merge."""
    base = spec.base_hub_id or spec.base_name
    revision = f" at revision `{spec.base_revision}`" if spec.base_revision else ""
    kind = "merged with a LoRA adapter" if spec.merged else "with a LoRA adapter"
    loader = loader_name(spec.base_dir)
    snippet = (_MERGED if spec.merged else _ADAPTER).format(base=base, repository=spec.repository, loader=loader)
    parts = [
        _front_matter(spec, license),
        f"# {(spec.repository or '').partition('/')[2]}",
        f"`{base}`{revision} {kind}, trained by Grouptune as `{spec.model}`.",
        snippet,
        *(_training(spec.training) if spec.training else ()),
        *(["## Merge", "\n".join(f"- {note}" for note in notes)] if notes else ()),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(spec: ExportSpec, license: str | None) -> str:
    tags = ["grouptune", *([] if spec.merged else ["lora"]), *([spec.training.method] if spec.training else [])]
    fields = {
        # The hub links a base model by its id; a name that only this installation knows would be a broken link.
        "base_model": spec.base_hub_id,
        "base_model_relation": ("finetune" if spec.merged else "adapter") if spec.base_hub_id else None,
        "library_name": "transformers" if spec.merged else "peft",
        "pipeline_tag": "text-generation",
        "license": license if license and _YAML_WORD.fullmatch(license) else None,
        "tags": f"[{', '.join(tags)}]",
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\n".join(["---", *lines, "---"])


def _training(facts: TrainingFacts) -> Iterable[str]:
    settings = {
        "method": facts.method,
        "optimiser steps": facts.steps,
        **({"trained tokens": f"{facts.trained_tokens:,}"} if facts.trained_tokens else {}),
        **{name.replace("_", " "): value for name, value in facts.hyperparameters.items()},
        "seed": facts.seed,
    }
    yield "## Training"
    yield _table(("setting", "value"), ((name, str(value)) for name, value in settings.items()))
    if names := sorted({**facts.before, **facts.after}):
        yield "## Evaluation"
        yield "On held-out rows, before and after training:"
        rows = ((name, _number(facts.before, name), _number(facts.after, name)) for name in names)
        yield _table(("measure", "before", "after"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(values: Mapping[str, float | None], name: str) -> str:
    value = values.get(name)
    return "-" if value is None else f"{value:.4g}"
