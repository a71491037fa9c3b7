"""`app.core.settings`: defaults derived from other settings, and rejected combinations."""

import ssl
from pathlib import Path

import pytest
from celery import Celery
from pydantic import ValidationError

from app.core.settings import BadSettings, Settings, load


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEASE", "HEARTBEAT", "FENCE", "SWEEP"):
        monkeypatch.delenv(f"GROUPTUNE_{name}_SECONDS", raising=False)


def intervals(settings: Settings) -> tuple[float, float, float, float]:
    return settings.heartbeat_seconds, settings.sweep_seconds, settings.fence_seconds, settings.lease_seconds


def test_intervals_follow_from_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    assert intervals(Settings()) == pytest.approx((10, 15, 45, 60))
    monkeypatch.setenv("GROUPTUNE_LEASE_SECONDS", "6")
    assert intervals(Settings()) == pytest.approx((1, 1.5, 4.5, 6))
    monkeypatch.setenv("GROUPTUNE_LEASE_SECONDS", "600")
    assert intervals(Settings()) == pytest.approx((100, 15, 450, 600))
    monkeypatch.setenv("GROUPTUNE_FENCE_SECONDS", "300")
    assert intervals(Settings()) == pytest.approx((100, 15, 300, 600))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lease_seconds": 10, "fence_seconds": 45}, r"FENCE_SECONDS \(45\).*LEASE_SECONDS \(10\).*set only"),
        ({"fence_seconds": 60}, r"FENCE_SECONDS \(60\).*LEASE_SECONDS \(60\)"),
        ({"heartbeat_seconds": 50}, r"HEARTBEAT_SECONDS \(50\) must be less than GROUPTUNE_FENCE_SECONDS \(45\)"),
        ({"lease_seconds": 10, "sweep_seconds": 11}, r"SWEEP_SECONDS \(11\) must not exceed"),
        ({"lease_seconds": 0}, "greater than 0"),
        ({"heartbeat_seconds": 0}, "greater than 0"),
        ({"orphan_grace_seconds": 3599}, "greater than or equal to 3600"),
        ({"storage_endpoint": "minio:9000"}, "URL scheme should be"),
        ({"REDIS_URL": "rediss://:x@h:6379/0"}, r"add \?ssl_cert_reqs=required"),
        ({"REDIS_URL": "rediss://:x@h:6379/0?ssl_cert_reqs=optional"}, r"add \?ssl_cert_reqs=required"),
        ({"REDIS_URL": "redis://:CHANGE-ME@h:6379/0"}, "secret of an example"),
        ({"DATABASE_URL": "postgresql+psycopg://me:changeme@h/d"}, "secret of an example"),
        ({"metrics_token": "change_me"}, "secret of an example"),
        ({"serve_api_key": "your-key"}, "secret of an example"),
    ],
)
def test_unsafe_settings_are_rejected(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate(values)


def test_trailing_slashes_of_urls_are_removed() -> None:
    settings = Settings.model_validate({"storage_endpoint": "http://minio:9000", "teacher_url": "http://t/v1/"})
    assert (settings.storage_endpoint, settings.teacher_url) == ("http://minio:9000", "http://t/v1")


def test_engine_urls_are_a_list() -> None:
    settings = Settings.model_validate(
        {"serve_url": "http://a:8100/v1/, http://b:8100,http://a:8100", "state_dir": "/s"}
    )
    assert settings.serve_url == ("http://a:8100", "http://b:8100")
    assert (settings.serve_dir, Settings().serve_url) == (Path("/s/serving"), ())
    with pytest.raises(ValidationError, match="URL scheme should be"):
        Settings.model_validate({"serve_url": "a:8100"})


@pytest.mark.parametrize(("decision", "mode"), [("required", ssl.CERT_REQUIRED), ("CERT_NONE", ssl.CERT_NONE)])
def test_broker_certificates_are_checked(decision: str, mode: ssl.VerifyMode) -> None:
    url = f"rediss://:x@h:6379/0?ssl_cert_reqs={decision}"
    assert Settings.model_validate({"REDIS_URL": url}).redis_url == url
    assert Celery(broker=url).connection().ssl == {"ssl_cert_reqs": mode}


def test_example_keys_of_the_store_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "minioadmin")
    assert Settings().storage_url is None
    with pytest.raises(ValidationError, match="AWS_SECRET_ACCESS_KEY still holds the secret of an example"):
        Settings.model_validate({"storage_url": "s3://blobs"})


def test_errors_name_all_variables_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPTUNE_LEASE_SECONDS", "soon")
    monkeypatch.setenv("REDIS_URL", "rediss://:hunter2@h:6379/0")
    with pytest.raises(BadSettings) as caught:
        load()
    assert {problem.partition(":")[0] for problem in caught.value.problems} == {"GROUPTUNE_LEASE_SECONDS", "REDIS_URL"}
    assert "hunter2" not in str(caught.value)
