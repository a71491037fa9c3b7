"""A local S3-compatible server over real HTTP (moto), with a bucket."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.server import ThreadedMotoServer
from werkzeug.serving import make_server

CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "test-key-id", "AWS_SECRET_ACCESS_KEY": "test-secret"}
BUCKET: Final = "blobs"


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server; yield its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        s3_client(address).create_bucket(Bucket=BUCKET)
        yield address
    finally:
        server.stop()


def s3_client(address: str) -> Any:
    """Return AWS's own client, to inspect the content of the server."""
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )


class FlakyS3:
    """The same server with the same buckets, which fails on request."""

    def __init__(self) -> None:
        self.is_unavailable = False
        self.failure_share = 0.0
        """Share of requests that get a 503."""
        self.failures = 0
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._random = random.Random(7)  # noqa: S311 - not security-relevant
        self.address = ""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        if self.is_unavailable or self._random.random() < self.failure_share:
            self.failures += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Service Unavailable", [("content-length", "0")])
            return [b""]
        return self._moto(environ, start_response)


@contextmanager
def flaky_s3_server() -> Iterator[FlakyS3]:
    """Run a `FlakyS3` with the bucket."""
    flaky = FlakyS3()
    server = make_server("127.0.0.1", 0, flaky, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    flaky.address = f"http://127.0.0.1:{server.server_port}"
    try:
        client = s3_client(flaky.address)
        if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=BUCKET)
        yield flaky
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
