"""Prepares an attempt's teacher: its location, its API key, and the cached teacher answers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from app.core.db import Database
from app.core.errors import BadSetup, InvalidRequest
from app.core.jobs import queries
from app.core.jobs.leases import Claim
from app.core.secrets import KeyRing
from app.core.settings import Settings
from app.core.spec.job import Teacher
from app.core.spec.subprocess_environment import TEACHER_API_KEY
from app.core.spec.teacher_answers import Spent, TeacherAnswer
from app.core.teachers import answer_cache, keys, locations
from app.core.teachers.locations import TeacherLocation

ANSWERS_NAME: Final = "teacher_answers.jsonl"

Answers = list[TeacherAnswer]
Lookup = Callable[[], Answers]


@dataclass(frozen=True)
class TeacherSetup:
    """The teacher of one attempt, ready to be passed to the trainer."""

    teacher: Teacher
    place: TeacherLocation
    api_key: str | None
    spent: Spent
    database: Database
    claim: Claim

    @classmethod
    def of(cls, database: Database, claim: Claim, settings: Settings) -> "TeacherSetup | None":
        """Return the teacher of a claimed job, if any. Raises `InvalidRequest` and `DatabaseUnavailable`."""
        teacher = claim.spec.teacher
        if teacher is None:
            return None
        place = locations.find(teacher, settings.models_dir, settings.teacher_url)
        with database.transaction() as session:
            spent = queries.teacher_usage(session, claim.job_id)
            secret = keys.secret_for(session, claim.project_id, teacher.base_url) if teacher.base_url else None
        if place.is_operators and settings.teacher_api_key is not None:
            api_key: str | None = settings.teacher_api_key.get_secret_value()
        else:
            api_key = None if secret is None else _decrypted(secret, settings)
        return cls(teacher, place, api_key, spent, database, claim)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the trainer gets in addition to those it inherits."""
        return {} if self.api_key is None else {TEACHER_API_KEY: self.api_key}

    def fill(self, directory: Path, training: Path, retry: Callable[[Lookup], Answers]) -> dict[str, Any]:
        """Write the cached answers into `directory`; return fields of `TrainerSpec`.

        `retry` calls a function until the database is available.
        """
        identity = self.teacher.identity(self.place.name, self.claim.spec.settings.sampling)
        target = directory / ANSWERS_NAME
        with target.open("w", encoding="utf-8") as out:
            for keys_of_batch in answer_cache.question_keys(training, identity, self.claim.spec.group):
                for answer in retry(partial(self._cached, keys_of_batch)):
                    out.write(answer.model_dump_json() + "\n")
        base = self.place.base_model
        return {
            "teacher_url": self.place.url,
            "teacher_is_operators": self.place.is_operators,
            "teacher_model_dir": None if base is None else str(base.directory.absolute()),
            "teacher_answers_path": str(target),
            "teacher_spent": self.spent,
        }

    def _cached(self, wanted: list[str]) -> Answers:
        with self.database.transaction() as session:
            return answer_cache.find(session, self.claim.project_id, wanted)


def _decrypted(secret: bytes, settings: Settings) -> str:
    plain = settings.secret_keys.get_secret_value() if settings.secret_keys else None
    try:
        return KeyRing.load(plain, settings.secret_keys_file).decrypt(secret)
    except BadSetup as error:
        raise InvalidRequest(f"The key for the teacher cannot be read. {error.message}", code=error.code) from error
