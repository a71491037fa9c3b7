"""Options that describe a job: a file, flags, or a file whose fields flags replace."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.jobs import job_file
from app.cli.ui.hints import suggest
from app.client import Json
from app.core.errors import InvalidRequest

JobFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="YAML or JSON file with the job. Options replace its fields.",
        exists=True,
        dir_okay=False,
    ),
]
Model = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Base model, fine-tuned model or alias.")]
Method = Annotated[
    str | None, typer.Option("--method", metavar="METHOD", help="gft, reinforcement, supervised, dft or dpo.")
]
GraderOption = Annotated[
    str | None,
    typer.Option(
        "--grader", metavar="GRADER", help="Path of a JSON or YAML file with the grader, or the grader as JSON."
    ),
]
TrainingFile = Annotated[
    str | None, typer.Option("--training-file", metavar="FILE", help="Path or id of the file to train on.")
]
ValidationFile = Annotated[
    str | None, typer.Option("--validation-file", metavar="FILE", help="Path or id of a file with held-out rows.")
]
TestFile = Annotated[
    str | None,
    typer.Option(
        "--test-file",
        metavar="FILE",
        help="Path or id of a file with held-out rows that report instead of half of those.",
    ),
]
Control = Annotated[
    str | None,
    typer.Option(
        "--control",
        metavar="METHOD",
        help="Train with this method first, on the same rows, and compare on the held-out rows.",
    ),
]
Suffix = Annotated[
    str | None, typer.Option("--suffix", metavar="NAME", help="Name, a part of the trained model's name.")
]
Gpus = Annotated[
    int | None,
    typer.Option("--gpus", metavar="N", help="GPUs that the job needs: only workers with as many take it."),
]
Nodes = Annotated[
    int | None,
    typer.Option("--nodes", metavar="N", help="Workers that train the job together."),
]
Demonstrations = Annotated[
    str | None,
    typer.Option("--demonstrations", metavar="CHOICE", help="all, or graded: train only those that pass the grader."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set another field, such as hyperparameters.batch_size=8, group.self=4 or seed=1. Repeatable.",
    ),
]


def job_of(
    file: Path | None,
    *,
    model: str | None,
    method: str | None,
    grader: str | None,
    training_file: str | None,
    validation_file: str | None,
    test_file: str | None,
    control: str | None,
    suffix: str | None,
    gpus: int | None,
    nodes: int | None,
    demonstrations: str | None,
    settings: list[str] | None,
) -> Json:
    """Return the job that a command describes; paths of its data files are absolute.

    Raises `InvalidRequest`, and `BadParameter` if neither a file nor flags describe a job.
    """
    if file is None and training_file is None:
        raise typer.BadParameter("Describe the job in a file (-f job.yaml), or with --model and --training-file.")
    body: dict[str, Any] = {} if file is None else job_file.read(file)
    named = {"model": model, "control": control, "suffix": suffix}
    body |= {name: value for name, value in named.items() if value is not None}
    body = job_file.with_method(body, method, None if grader is None else job_file.parse_grader(grader))
    chosen = [] if demonstrations is None else [f"demonstrations={demonstrations}"]
    chosen += [f"resources.{name}={count}" for name, count in (("gpus", gpus), ("nodes", nodes)) if count is not None]
    body = job_file.with_settings(body, [*chosen, *(settings or [])])
    files = {"training_file": training_file, "validation_file": validation_file, "test_file": test_file}
    body = job_file.with_files(body, **files)
    if "model" not in body:
        message = f"The job names no model. Add --model; `{suggest('models list')}` lists them."
        raise InvalidRequest(message, param="model")
    return body | {
        name: str(path.absolute()) for name, path in job_file.local_files(body, file.parent if file else Path()).items()
    }
