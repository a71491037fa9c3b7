"""docker/s3: the API and the workers can do their own work in the store, and no more."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import boto3
import httpx
import pytest

from app.core.storage.blobs import StorageUnavailable
from app.core.storage.s3 import PART_BYTES, Bucket, S3BlobStore
from tests.s3_server import CREDENTIALS, s3_client, s3_server

BUCKET: Final = "grouptune"
"""Of the compose file."""
OWN_BUCKET: Final = "policies"
"""All S3 servers of a test process show the same buckets."""
POLICIES: Final = Path(__file__).parents[2] / "docker" / "s3"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A store with a bucket and a blob of each kind, which enforces policies."""
    with s3_server() as address:
        s3_client(address).create_bucket(Bucket=OWN_BUCKET)
        for key in ("files/f", "jobs/j/a1/adapter/x", "exports/e/a1"):
            s3_client(address).put_object(Bucket=OWN_BUCKET, Key=key, Body=b"x")
        yield address


@pytest.fixture
def store(address: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3BlobStore]:
    """The store as a role sees it."""
    iam = boto3.client(
        "iam",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    role = request.param
    policy = json.loads((POLICIES / f"{role}.json").read_text().replace(":::grouptune", f":::{OWN_BUCKET}"))
    # moto, unlike S3, checks a request that deletes several objects against the bucket.
    deletion = {"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{OWN_BUCKET}"}
    policy["Statement"].append(deletion)
    iam.create_user(UserName=role)
    iam.put_user_policy(UserName=role, PolicyName=role, PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=role)["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    httpx.post(f"{address}/moto-api/reset-auth", content="0").raise_for_status()
    yield S3BlobStore(Bucket(OWN_BUCKET, None, "us-east-1", address), retries=0)
    httpx.post(f"{address}/moto-api/reset-auth", content="inf").raise_for_status()


def both_can(store: S3BlobStore) -> None:
    store.check_writable()
    store.write("files/small", [b"x"])
    store.write("files/large", [bytes(PART_BYTES)] * 2)
    store.write("uploads/u/part", [b"x"])
    assert store.list("jobs") == ["jobs/j/a1/adapter/x"]
    with store.open("jobs/j/a1/adapter/x") as blob:
        assert blob.read() == b"x"
    store.delete("files/small")
    store.delete("files/large")
    store.delete_tree("uploads/u")


@pytest.mark.parametrize("store", ["api"], indirect=True)
def test_api_cannot_write_what_jobs_make(store: S3BlobStore) -> None:
    both_can(store)
    for key in ("jobs/j/a2/adapter/x", "exports/e/a2"):
        with pytest.raises(StorageUnavailable, match=key):
            store.write(key, [b"x"])
    store.delete("exports/e/a1")  # for a client


@pytest.mark.parametrize("store", ["worker"], indirect=True)
def test_workers_write_everything(store: S3BlobStore) -> None:
    both_can(store)
    store.write("jobs/j/a2/adapter/x", [b"x"])
    store.write("exports/e/a2", [b"x"])
    store.delete_tree("jobs/j/a2")


@pytest.mark.parametrize("role", ["api", "worker"])
def test_policies_name_one_bucket_and_no_administration(role: str) -> None:
    for statement in json.loads((POLICIES / f"{role}.json").read_text())["Statement"]:
        assert all(resource.split(":")[-1].split("/")[0] == BUCKET for resource in statement["Resource"])
        assert not any("*" in action for action in statement["Action"])
