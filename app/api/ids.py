"""Ids in paths and queries. Text that cannot be an id is not found, before the database is queried."""

import re
from typing import Annotated, Any, Final

from fastapi import Path
from pydantic import AfterValidator

from app.core.errors import NotFound
from app.core.spec.gates import ALIAS_PATTERN

MAX_ID: Final = 64
MAX_MODEL_NAME: Final = 512
_ID: Final = rf"[A-Za-z0-9_-]{{1,{MAX_ID}}}"
_SHOWN: Final = 100


def _existing(kind: str, code: str = NotFound.code, pattern: str = _ID) -> AfterValidator:
    """Return a validator that raises `NotFound` for text that cannot be an id, as for an id that does not exist."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise NotFound(f"There is no {kind} {value[:_SHOWN]!r}.", code=code)
        return value

    return AfterValidator(check)


def _path(description: str, **bounds: Any) -> Any:
    """Return the description of a path's id. Its bounds are documented here and checked by `_existing`."""
    return Path(description=description, json_schema_extra=bounds or {"pattern": f"^{_ID}$", "maxLength": MAX_ID})


def _existing_model(name: str) -> str:
    if len(name) > MAX_MODEL_NAME or not name.isprintable():
        raise NotFound(f"There is no model {name[:_SHOWN]!r}.", param="model", code="model_not_found")
    return name


JobId = Annotated[str, _path("`ftjob-...`"), _existing("fine-tuning job")]
CheckpointId = Annotated[str, _path("`ftckpt_...`"), _existing("checkpoint")]
FileId = Annotated[str, _path("`file-...`"), _existing("file")]
UploadId = Annotated[str, _path("`upload_...`"), _existing("upload")]
PermissionId = Annotated[str, _path("`cp_...`"), _existing("permission")]
TrustId = Annotated[str, _path("`trust_...`"), _existing("trust")]
EndpointId = Annotated[str, _path("`we_...`"), _existing("webhook endpoint")]
DeliveryId = Annotated[str, _path("`wh_...`"), _existing("delivery")]
EvalId = Annotated[str, _path("`eval_...`"), _existing("eval", "eval_not_found")]
EvalRunId = Annotated[str, _path("`evalrun_...`"), _existing("eval run", "eval_run_not_found")]
OutputItemId = Annotated[str, _path("`outputitem_...`"), _existing("output item", "output_item_not_found")]
TeacherKeyId = Annotated[str, _path("`tkey_...`"), _existing("teacher key")]
ExportId = Annotated[str, _path("`export-...`"), _existing("export")]
KeyId = Annotated[str, _path("The eight characters after `gt_live_` in the key's text."), _existing("API key")]
ProjectId = Annotated[str, _path("`proj_...`"), _existing("project")]
ModelName = Annotated[
    str,
    _path("A base model, a fine-tuned model (`ft:...`) or an alias.", maxLength=MAX_MODEL_NAME),
    AfterValidator(_existing_model),
]
AliasName = Annotated[
    str,
    _path("The name of the alias.", pattern=f"^{ALIAS_PATTERN}$", maxLength=MAX_ID),
    _existing("alias", "alias_not_found", ALIAS_PATTERN),
]
NewAlias = Annotated[
    str, Path(max_length=MAX_ID, pattern=rf"^{ALIAS_PATTERN}$", description="The new name of the alias.")
]
