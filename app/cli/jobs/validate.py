"""`grouptune jobs validate`: checks a job without creating it."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.jobs.create import request_of
from app.cli.jobs.rows import note_rows
from app.cli.ui.console import fail, warn, write_json, write_line
from app.cli.ui.exits import ExitCode
from app.cli.ui.options import AsJson, StateDir, TrainingFile, ValidationFile


def validate_job(
    file: Annotated[
        Path, typer.Option("--file", "-f", help="YAML or JSON file with the job.", exists=True, dir_okay=False)
    ],
    training_file: TrainingFile = None,
    validation_file: ValidationFile = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List all problems of a job without creating it. Exit with code 1 if the job would be refused."""
    with connect(state_dir) as client:
        body = request_of(client, file, training_file, validation_file)
        validation = client.post("/fine_tuning/jobs/validate", body)
    if as_json:
        write_json(validation)
    else:
        for problem in validation["errors"]:
            fail(problem["message"], param=problem["param"])
        for problem in validation["warnings"]:
            warn(problem["message"])
        note_rows(validation)
        write_line("valid" if validation["valid"] else "not valid")
    if not validation["valid"]:
        raise typer.Exit(ExitCode.error)
