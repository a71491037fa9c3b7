"""`grouptune webhooks`: endpoints that receive events about jobs and exports, and their deliveries."""

from typing import Annotated, Final

import typer

from app.cli.connection import connect
from app.cli.several import delete_each
from app.cli.ui.confirmation import Yes
from app.cli.ui.console import note, write_json, write_line, write_table
from app.cli.ui.formatting import age
from app.cli.ui.hints import suggest
from app.cli.ui.options import AsJson, StateDir
from app.client import Json, path_segment

app = typer.Typer(help="Notify other services when jobs and exports end.", no_args_is_help=True)
_PATH: Final = "/webhook_endpoints"
_ENDS: Final = ("fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled")

Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Endpoint id: we_...")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="Address that receives the events by POST.")],
    name: Annotated[str, typer.Option(help="Name that says what the endpoint is for.")] = "command line",
    event: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EVENT", help="Type of event, see `webhooks events`. Repeatable. Default: the end of a job."
        ),
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Create an endpoint and print its signing secret. It is shown only once."""
    with connect(state_dir) as client:
        endpoint = client.post(_PATH, {"name": name, "url": url, "event_types": list(event or _ENDS)})
    if as_json:
        write_json(endpoint)
        return
    note(f"{endpoint['id']} receives {', '.join(endpoint['event_types'])}. Its signing secret is shown only once:")
    write_line(endpoint["signing_secret"])


@app.command("list")
def list_endpoints(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the endpoints."""
    with connect(state_dir) as client:
        endpoints = list(client.pages(_PATH))
    if as_json:
        write_json(endpoints)
        return
    rows = [
        (
            endpoint["id"],
            "active" if endpoint["disabled_at"] is None else "disabled",
            endpoint["name"],
            age(endpoint["created_at"]),
            " ".join(endpoint["event_types"]),
            endpoint["url"],
        )
        for endpoint in endpoints
    ]
    columns = ("id", "state", "name", "age", "events", "url")
    write_table(columns, rows, empty=f"No webhook endpoints. Create one with `{suggest('webhooks create URL')}`.")


@app.command()
def events(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the types of events."""
    with connect(state_dir) as client:
        types = client.get("/webhook_event_types")["data"]
    if as_json:
        write_json(types)
    else:
        for name in types:
            write_line(name)


@app.command("test")
def send_test(
    endpoint: Endpoint,
    event: Annotated[str, typer.Option(metavar="EVENT", help="Type of event to send.")] = _ENDS[0],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Send a test event and print the status code of the answer."""
    with connect(state_dir) as client:
        result = client.post(f"{_PATH}/{path_segment(endpoint)}/test", {"event_type": event})
    write_json(result) if as_json else write_line(str(result["status_code"]))


@app.command()
def deliveries(
    endpoint: Endpoint,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of deliveries, newest first.")] = 20,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List the deliveries to an endpoint with their last tries."""
    with connect(state_dir) as client:
        found = list(client.pages(f"{_PATH}/{path_segment(endpoint)}/deliveries", limit=limit))
    if as_json:
        write_json(found)
        return
    columns = ("id", "state", "event", "age", "tries", "answer")
    write_table(columns, [_delivery(delivery) for delivery in found], empty="No deliveries.")


@app.command()
def replay(
    endpoint: Endpoint,
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="Delivery id: wh_...")],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Send a delivery again under its original id."""
    with connect(state_dir) as client:
        sent = client.post(f"{_PATH}/{path_segment(endpoint)}/deliveries/{path_segment(delivery)}/replay")
    note(f"{sent['id']} is {sent['state']}.")
    write_json(sent) if as_json else write_line(sent["id"])


@app.command("rotate-secret")
def rotate_secret(
    endpoint: Endpoint,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="For one day, sign with the old secret as well.")
    ] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Replace the signing secret and print the new one."""
    body = {"keep_old_secret_active_for_24_hours": keep_old}
    with connect(state_dir) as client:
        changed = client.post(f"{_PATH}/{path_segment(endpoint)}/rotate_secret", body)
    write_json(changed) if as_json else write_line(changed["signing_secret"])


@app.command()
def delete(
    endpoints: Annotated[list[str], typer.Argument(metavar="ENDPOINT...", help="Endpoint ids: we_...")],
    yes: Yes = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete endpoints with their deliveries."""
    with connect(state_dir) as client:
        delete_each(client, _PATH, endpoints, "webhook endpoint", label="url", is_confirmed=yes, as_json=as_json)


def _delivery(delivery: Json) -> tuple[object, ...]:
    tries = delivery["tries"]
    answer = (tries[-1]["error"] or tries[-1]["status_code"]) if tries else None
    return delivery["id"], delivery["state"], delivery["event_type"], age(delivery["created_at"]), len(tries), answer
