"""Ids in paths and queries. Over-long ones are rejected before the database is queried."""

from typing import Annotated, Final

from fastapi import Path

from app.core.spec.gates import ALIAS_PATTERN

MAX_ID: Final = 64
MAX_MODEL_NAME: Final = 512

JobId = Annotated[str, Path(max_length=MAX_ID, description="`ftjob-...`")]
FileId = Annotated[str, Path(max_length=MAX_ID, description="`file-...`")]
UploadId = Annotated[str, Path(max_length=MAX_ID, description="`upload_...`")]
PermissionId = Annotated[str, Path(max_length=MAX_ID, description="`cp_...`")]
TrustId = Annotated[str, Path(max_length=MAX_ID, description="`trust_...`")]
EndpointId = Annotated[str, Path(max_length=MAX_ID, description="`we_...`")]
DeliveryId = Annotated[str, Path(max_length=MAX_ID, description="`wh_...`")]
TeacherKeyId = Annotated[str, Path(max_length=MAX_ID, description="`tkey_...`")]
ExportId = Annotated[str, Path(max_length=MAX_ID, description="`export-...`")]
KeyId = Annotated[str, Path(max_length=MAX_ID, description="The eight characters after `gt_live_` in the key's text.")]
ProjectId = Annotated[str, Path(max_length=MAX_ID, description="`proj_...`")]
ModelName = Annotated[
    str, Path(max_length=MAX_MODEL_NAME, description="A base model, a fine-tuned model (`ft:...`) or an alias.")
]
AliasPath = Annotated[str, Path(max_length=MAX_ID, pattern=rf"^{ALIAS_PATTERN}$", description="The name of the alias.")]
