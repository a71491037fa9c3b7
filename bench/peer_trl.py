"""TRL as a contender of `bench/train.py`: its losses on given completions, and `generate`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from bench.cases import LEARNING_RATE, Case, conversations, measure, tokens

OUTPUT_DIR = "/tmp/grouptune-bench"  # noqa: S108 - TRL requires a directory but writes nothing there
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def build(case: Case, model_dir: Path, contender: str) -> Callable[[], object]:
    """Load the model; return a function that runs one optimiser step of TRL's trainer, or one call of `generate`.

    The contender `trl` checkpoints activations, which is TRL's default."""
    checkpointing = contender == "trl"
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
    if case.kind == "rollout":
        return _generate(case, model)
    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir)
    if case.kind == "group":
        trainer, batches = _grpo(case, model, tokenizer, checkpointing), [_group_batch(case)]
    elif case.kind == "conversations":
        trainer = _sft(model, tokenizer, checkpointing, _packed_rows(case), packing=True)
        batches = _packed_batches(trainer)
    else:
        trainer = _sft(model, tokenizer, checkpointing, Dataset.from_list([{"prompt": "x", "completion": "y"}]))
        batches = [_supervised_batch(case)]
    trained = [value for value in trainer.model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    trainer.current_gradient_accumulation_steps = len(batches)
    trainer.model.train()
    if checkpointing:  # normally done by `Trainer.train`, which is not called here
        trainer.model.activation_checkpointing_enable()

    def step() -> None:
        for batch in batches:
            inputs = dict(batch)
            # GRPOTrainer reads the count from the inputs; SFTTrainer would pass these on to the model.
            count = None if case.kind == "group" else inputs.pop("num_items_in_batch", None)
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _grpo(case: Case, model: Any, tokenizer: Any, checkpointing: bool) -> Any:
    arguments = GRPOConfig(
        output_dir=OUTPUT_DIR,
        per_device_train_batch_size=case.prompts * case.members,
        num_generations=case.members,
        max_completion_length=case.response_tokens,
        beta=0.0,
        gradient_checkpointing=checkpointing,
        report_to="none",
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "x"}]),
        processing_class=tokenizer,
        peft_config=LORA,
    )


def _sft(model: Any, tokenizer: Any, checkpointing: bool, data: Dataset, packing: bool = False) -> Any:
    arguments = SFTConfig(
        output_dir=OUTPUT_DIR,
        gradient_checkpointing=checkpointing,
        report_to="none",
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        packing=packing,
    )
    return SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=LORA)


def _packed_rows(case: Case) -> Dataset:
    """Return tokenised conversations with the mask that TRL's `assistant_only_loss` computes from a chat template."""
    rows = []
    for turns in conversations(case):
        ids = [token for turn in turns for part in turn for token in part]
        mask = [int(trained) for user, answer in turns for trained in [False] * len(user) + [True] * len(answer)]
        rows.append({"input_ids": ids, "assistant_masks": mask})
    return Dataset.from_list(rows)


def _packed_batches(trainer: Any) -> list[dict[str, Any]]:
    """Return TRL's packed rows of up to 1,024 tokens, one per micro-batch: on a CPU faster than several."""
    batches = [trainer.data_collator([row]) for row in trainer.train_dataset]
    count = sum((batch["labels"] != -100).sum() for batch in batches)
    return [batch | {"num_items_in_batch": count} for batch in batches]


def _group_batch(case: Case) -> dict[str, Any]:
    prompts, responses = tokens(case)
    prompt_ids = torch.tensor([prompt for prompt in prompts for _ in range(case.members)])
    completion_ids = torch.tensor([ids for members in responses for ids in members])
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": torch.ones_like(prompt_ids),
        "completion_ids": completion_ids,
        "completion_mask": torch.ones_like(completion_ids),
        "advantages": torch.linspace(-1, 1, len(completion_ids)),
        "num_items_in_batch": torch.tensor(completion_ids.numel()),
    }


def _supervised_batch(case: Case) -> dict[str, Any]:
    prompts, responses = tokens(case)
    ids = torch.tensor([[*prompt, *members[0]] for prompt, members in zip(prompts, responses, strict=True)])
    labels = ids.clone()
    labels[:, : case.prompt_tokens] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _generate(case: Case, model: Any) -> Callable[[], None]:
    policy: Any = get_peft_model(model, LORA)
    prompts, _ = tokens(case)
    ids = torch.tensor([prompt for prompt in prompts for _ in range(case.members)])
    length = case.response_tokens

    def step() -> None:
        with torch.no_grad():
            policy.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                min_new_tokens=length,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
            )

    return step


if __name__ == "__main__":
    measure(build)
