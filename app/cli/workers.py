"""`grouptune workers`: which machines train, what they have, and what they are at."""

from app.cli.connection import StateDir, connect
from app.cli.files.commands import AsJson, age, human_bytes
from app.cli.ui.console import write_json, write_table


def workers(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the workers with their hardware and what they do."""
    with connect(state_dir) as client:
        found = client.get("/workers")["data"]
    if as_json:
        write_json(found)
        return
    rows = [
        (
            one["id"],
            one["status"],
            ",".join(one["queues"]),
            f"{one['running_jobs']}/{one['slots']}",
            human_bytes(one["hardware"]["accelerator_memory_bytes"] or one["hardware"]["memory_bytes"]),
            age(one["last_seen"]),
            one["hardware"]["device"],
        )
        for one in found
    ]
    columns = ("id", "status", "queues", "jobs", "memory", "seen", "device")
    write_table(columns, rows, empty="No worker is there: grouptune up starts one.")
