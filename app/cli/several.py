"""Commands that change several objects: each is changed, and the refused ones are reported at the end."""

from collections.abc import Callable, Sequence
from functools import partial

import typer

from app.cli.ui.confirmation import confirm
from app.cli.ui.console import fail, note, write_json, write_line
from app.cli.ui.exits import ExitCode
from app.client import ApiError, Client, Json, path_segment


def change_each(names: Sequence[str], change: Callable[[str], Json], *, as_json: bool) -> None:
    """Change each object and print its id. With `as_json` print the answer, or all answers as a list if there are more.

    A refused change does not keep the others from being made; the command then exits with code 1.
    """
    answers, refused = list[Json](), list[ApiError]()
    for name in names:
        try:
            answers.append(change(name))
        except ApiError as error:
            if len(names) == 1 or error.is_unavailable:
                raise
            refused.append(error)
    if as_json:
        write_json(answers[0] if len(names) == 1 else answers)
    else:
        for answer in answers:
            write_line(answer["id"])
    for problem in refused:
        fail(problem.message, param=problem.param, code=problem.code, kind=problem.type)
    if refused:
        raise typer.Exit(ExitCode.error)


def delete_each(
    client: Client, path: str, names: Sequence[str], noun: str, *, label: str, is_confirmed: bool, as_json: bool
) -> None:
    """Delete the objects `names` below the path of their collection, after a confirmation on a terminal.

    The question shows the field `label` of each object.
    """
    names = list(dict.fromkeys(names))
    confirm("Delete", names, noun, partial(label_of, client, path, label), is_confirmed=is_confirmed)

    def delete(name: str) -> Json:
        answer = client.delete(f"{path}/{path_segment(name)}")
        note(f"{name} is deleted.")
        return answer

    change_each(names, delete, as_json=as_json)


def listed_label(client: Client, path: str, field: str, name: str) -> str | None:
    """Return a field of an object of a collection whose objects cannot be read one by one, or None if it is absent."""
    return next((found[field] for found in client.pages(path) if found["id"] == name), None)


def label_of(client: Client, path: str, field: str, name: str) -> str | None:
    """Return a field of an object, or None if the object cannot be read: changing it then reports why."""
    try:
        value: str | None = client.get(f"{path}/{path_segment(name)}").get(field)
    except ApiError:
        return None
    return value
