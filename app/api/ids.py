"""Ids in paths and queries. Longer ones are refused before the database is asked."""

from typing import Annotated, Final

from fastapi import Path

from app.core.spec.gates import ALIAS_PATTERN

MAX_ID: Final = 64
MAX_MODEL_NAME: Final = 512

JobId = Annotated[str, Path(max_length=MAX_ID)]
FileId = Annotated[str, Path(max_length=MAX_ID)]
UploadId = Annotated[str, Path(max_length=MAX_ID)]
PermissionId = Annotated[str, Path(max_length=MAX_ID)]
KeyId = Annotated[str, Path(max_length=MAX_ID, description="The eight characters after `gt_live_` in its text.")]
ProjectId = Annotated[str, Path(max_length=MAX_ID)]
ModelName = Annotated[str, Path(max_length=MAX_MODEL_NAME)]
AliasPath = Annotated[str, Path(max_length=MAX_ID, pattern=rf"^{ALIAS_PATTERN}$")]
