"""`grouptune workers`: lists the workers, their hardware and their load."""

from app.cli.connection import connect
from app.cli.ui.console import note, write_json, write_table
from app.cli.ui.formatting import age, human_bytes
from app.cli.ui.hints import suggest
from app.cli.ui.options import AsJson, StateDir


def list_workers(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the workers with their hardware and load."""
    with connect(state_dir) as client:
        workers = client.get("/workers")["data"]
    if as_json:
        write_json(workers)
        return
    rows = [
        (
            worker["id"],
            worker["status"],
            ",".join(worker["queues"]),
            f"{worker['running_jobs']}/{worker['slots']}",
            human_bytes(worker["hardware"]["accelerator_memory_bytes"] or worker["hardware"]["memory_bytes"]),
            age(worker["last_seen"]),
            worker["hardware"]["device"],
        )
        for worker in workers
    ]
    columns = ("id", "status", "queues", "jobs", "memory", "seen", "device")
    write_table(columns, rows, empty=f"No workers are running. Start one with `{suggest('up')}`.")
    for worker in workers:
        if worker["reason"] is not None:
            note(f"{worker['id']}: {worker['reason']}")
