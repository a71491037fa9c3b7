"""Checks of this machine: free disk space, the cache of base models, the keys that encrypt secrets."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import func, select

from app.core.db import Database
from app.core.doctor.finding import DoctorFinding, failed, ok, warning
from app.core.errors import BadSetup, DatabaseUnavailable
from app.core.exports.tables import Export
from app.core.models import registry, weights
from app.core.plurals import plural
from app.core.secrets import SETTING, KeyRing
from app.core.teachers.tables import TeacherKey
from app.core.webhooks.tables import WebhookEndpoint

GB: Final = 1e9
LITTLE_BYTES: Final = 10 * GB
TOO_LITTLE_BYTES: Final = GB
FEW_INODES: Final = 0.02
SECRETS: Final = {
    "webhook endpoint": select(WebhookEndpoint.id, WebhookEndpoint.secret),
    "webhook endpoint (previous secret)": select(WebhookEndpoint.id, WebhookEndpoint.old_secret).where(
        WebhookEndpoint.old_secret_until > func.now()
    ),
    "teacher key": select(TeacherKey.id, TeacherKey.secret),
    "export": select(Export.id, Export.secret),
}
"""Owner -> the query of everything that is encrypted for such owners."""
SHOWN: Final = 5
PRIVATE_FILES: Final = ("secret_keys", "api_key", "connection.json")


def check_disks(places: Mapping[str, Path]) -> Iterator[DoctorFinding]:
    """Check the free space, with one finding per file system. `places` maps the use of a directory to its path."""
    seen: dict[int, list[str]] = {}
    paths: dict[int, Path] = {}
    for name, path in places.items():
        try:
            existing = _nearest(path)
            device = existing.stat().st_dev
        except OSError as error:
            fix = f"let this user enter {path}, or run this command as the installation's user"
            yield failed("disk", f"the space for {name} could not be checked: {error}", fix)
            continue
        seen.setdefault(device, []).append(name)
        paths.setdefault(device, existing)
    for device, names in seen.items():
        yield _disk(" and ".join(names), paths[device])


def _disk(what: str, path: Path) -> DoctorFinding:
    usage, counts = shutil.disk_usage(path), os.statvfs(path)
    message = f"{usage.free / GB:.1f} of {usage.total / GB:.1f} GB free at {path} ({what})"
    fix = f"free space there (`du -xh --max-depth 2 {path}`), or move {what} to another disk"
    if usage.free < TOO_LITTLE_BYTES:
        return failed("disk", message, fix)
    if usage.free < LITTLE_BYTES:
        return warning("disk", message, fix)
    if counts.f_files and counts.f_favail / counts.f_files < FEW_INODES:
        return warning("disk", f"the file system at {path} ({what}) has hardly any inodes left", fix)
    return ok("disk", message)


def _nearest(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def check_models(directory: Path) -> Iterator[DoctorFinding]:
    """Check the cached base models, and whether more can be downloaded."""
    pulled = [model for model in registry.list_base_models(directory) if model.is_pulled]
    for model in pulled:
        if (damage := weights.damage(model.directory)) is not None:
            again = f", then `grouptune models pull {model.name}`" if model.entry else " and copy it there again"
            yield failed("models", f"{model.name}: {damage}", f"remove {model.directory}{again}")
    if not os.access(_nearest(directory), os.W_OK | os.X_OK):
        yield warning(
            "models", f"{directory} is not writable: no base model can be downloaded", "make it writable for this user"
        )
    if not pulled:
        fix = "download one with `grouptune models pull smollm2-135m-instruct`; otherwise the first job does"
        yield warning("models", f"no base model in {directory}", fix)
        return
    yield ok("models", f"{', '.join(model.name for model in pulled)} in {directory}")


def check_keys(ring_text: str | None, ring_file: Path | None, database_url: str | None) -> DoctorFinding:
    """Check that secrets can be encrypted, and that the stored ones can be decrypted."""
    fix = f"set {SETTING} or {SETTING}_FILE as SECURITY.md says, with the previous key if there was one"
    try:
        ring = KeyRing.load(ring_text, ring_file)
        ring.encrypt("probe")
    except BadSetup as error:
        if not ring_text and ring_file is None:
            return warning("keys", "no key is set, so secrets such as teachers' API keys cannot be stored", fix)
        return failed("keys", error.message, fix)
    stored = {} if database_url is None else _stored_secrets(database_url)
    if lost := [name for name, secret in stored.items() if not _can_decrypt(ring, secret)]:
        names = ", ".join(lost[:SHOWN]) + (", ..." if len(lost) > SHOWN else "")
        return failed("keys", f"{len(lost)} of {len(stored)} stored secrets cannot be decrypted: {names}", fix)
    count = f"{plural(len(stored), 'stored secret')} can be decrypted"
    return ok("keys", f"secrets can be encrypted; {count if database_url else 'no database to check'}")


def _stored_secrets(database_url: str) -> dict[str, bytes]:
    """Return the encrypted secrets by the names of their owners."""
    database = Database(database_url, pool_size=1)
    try:
        with database.transaction() as session:
            return {
                f"{owner} {object_id}": secret
                for owner, query in SECRETS.items()
                for object_id, secret in session.execute(query)
                if secret is not None
            }
    except DatabaseUnavailable:  # another finding reports it
        return {}
    finally:
        database.dispose()


def _can_decrypt(ring: KeyRing, secret: bytes) -> bool:
    try:
        ring.decrypt(secret)
    except BadSetup:
        return False
    return True


def check_private_files(state_dir: Path) -> Iterator[DoctorFinding]:
    """Report files with keys that other users can read."""
    for name in PRIVATE_FILES:
        path = state_dir / name
        if path.exists() and path.stat().st_mode & 0o077:
            yield warning("keys", f"{path} can be read by other users", f"chmod 600 {path}")
