"""A GFT job with OpenAI's SDK only: upload, wait, create, poll, read the events, ask the model.

OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=gt_live_... python quickstart.py [MODEL] [MAX_STEPS]
"""

import sys
import time
from pathlib import Path

from openai import OpenAI

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
max_steps = int(sys.argv[2]) if len(sys.argv) > 2 else 14

client = OpenAI()
file = client.files.create(file=Path(__file__).with_name("arithmetic.train.jsonl"), purpose="fine-tune")
client.files.wait_for_processing(file.id, poll_interval=0.5)
grader = {"type": "math", "name": "answer", "reference": "{{item.reference_answer}}", "answer": "last_number"}
settings = {"sampling": {"max_tokens": 64}, "hyperparameters": {"batch_size": 8, "max_steps": max_steps}}
job = client.fine_tuning.jobs.create(
    model=model,
    training_file=file.id,
    method={"type": "gft", "gft": {"grader": grader, **settings}},  # type: ignore[arg-type] # not in OpenAI's types
)
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)
for event in reversed(client.fine_tuning.jobs.list_events(job.id, limit=100).data):
    print(event.message)
print(job.status, job.fine_tuned_model or job.error)
if job.fine_tuned_model:
    question = "What is 47 + 38?"
    for name in (model, job.fine_tuned_model):
        answer = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=64
        )
        print(f"{name}: {answer.choices[0].message.content}")
