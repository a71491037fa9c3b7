"""`python -m worker.serving --host HOST --port PORT`: the embedded engine, configured by Grouptune's settings."""

import argparse
import os
import threading
from typing import Final

from app.core import extras

extras.require_or_exit("serve", "The inference engine")

import uvicorn

from app.core import settings
from app.core.logging import configure
from worker.serving.server import Server
from worker.training.kernel_caches import limit_kernel_caches

SPINS: Final = "50000"
"""Turns that a thread of torch's OpenMP library waits actively for the next product before it sleeps: a millisecond or
two. A decoding step is hundreds of products, and waking a sleeping thread for each costs what the second thread gains:
a step of 8 sequences took 63 ms with threads that sleep at once, 64 ms with one thread, and 47 ms with this.
"""
FAREWELL_SECONDS: Final = 0.5
"""After the engine's thread has failed, the time to send its last errors. Then the process ends without waiting for
connections or threads."""


def main() -> None:
    """Serve until a signal. Exits with a non-zero status if the engine's thread fails, so that it is restarted."""
    arguments = argparse.ArgumentParser(prog="python -m worker.serving")
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=8001)
    options = arguments.parse_args()
    configure()
    limit_kernel_caches()
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported, with the first request
    server = Server(settings.load(), on_death=lambda: threading.Timer(FAREWELL_SECONDS, os._exit, (1,)).start())
    uvicorn.run(server.app, host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
