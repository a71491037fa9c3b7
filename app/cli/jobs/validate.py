"""`grouptune jobs validate`: checks a job without creating it."""

import typer

from app.cli.connection import connect
from app.cli.jobs.data_files import RefusedJob, with_stored_files
from app.cli.jobs.job_options import (
    Control,
    Demonstrations,
    Gpus,
    GraderOption,
    JobFile,
    Method,
    Model,
    Nodes,
    Settings,
    Suffix,
    TestFile,
    TrainingFile,
    ValidationFile,
    job_of,
)
from app.cli.jobs.rows import note_rows
from app.cli.ui.console import fail, warn, write_json, write_line
from app.cli.ui.exits import ExitCode
from app.cli.ui.options import AsJson, StateDir


def validate_job(
    file: JobFile = None,
    model: Model = None,
    method: Method = None,
    training_file: TrainingFile = None,
    validation_file: ValidationFile = None,
    test_file: TestFile = None,
    grader: GraderOption = None,
    control: Control = None,
    suffix: Suffix = None,
    gpus: Gpus = None,
    nodes: Nodes = None,
    demonstrations: Demonstrations = None,
    settings: Settings = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List all problems of a job without creating it. Exit with code 1 if the job would be refused."""
    body = job_of(
        file,
        model=model,
        method=method,
        grader=grader,
        training_file=training_file,
        validation_file=validation_file,
        test_file=test_file,
        control=control,
        suffix=suffix,
        gpus=gpus,
        nodes=nodes,
        demonstrations=demonstrations,
        settings=settings,
    )
    with connect(state_dir) as client:
        try:
            validation = client.post("/fine_tuning/jobs/validate", with_stored_files(client, body))
        except RefusedJob as refused:
            validation = refused.validation
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
