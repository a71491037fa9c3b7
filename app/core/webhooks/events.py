"""Webhook event types, and the deliveries of an event: written in the transaction of the change itself."""

import json
from enum import StrEnum
from typing import Final

from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core import ids


class EventType(StrEnum):
    """OpenAI's event types and our own. An endpoint receives the types that it subscribes to."""

    succeeded = "fine_tuning.job.succeeded"
    failed = "fine_tuning.job.failed"
    cancelled = "fine_tuning.job.cancelled"
    running = "fine_tuning.job.running"
    paused = "fine_tuning.job.paused"
    requeued = "fine_tuning.job.requeued"
    checkpoint_created = "fine_tuning.job.checkpoint.created"
    export_succeeded = "model.export.succeeded"
    export_failed = "model.export.failed"
    eval_run_succeeded = "eval.run.succeeded"
    eval_run_failed = "eval.run.failed"
    eval_run_canceled = "eval.run.canceled"


# One row per subscribed endpoint; a project without endpoints costs one index lookup. The payload is stored as text, so
# that exactly the signed bytes are sent.
_EMIT: Final = text(
    """
    INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload)
    SELECT 'wh_' || replace(gen_random_uuid()::text, '-', ''), id, CAST(:type AS text),
           json_build_object('id', CAST(:event AS text), 'object', 'event',
                             'created_at', floor(extract(epoch FROM now()))::bigint, 'type', CAST(:type AS text),
                             'data', json_build_object('id', CAST(:object AS text))::jsonb || CAST(:facts AS jsonb)
                             )::text
    FROM webhook_endpoints
    WHERE project_id = :project AND disabled_at IS NULL AND event_types @> to_jsonb(CAST(:type AS text))
    """
)


def emit(session: Session, project_id: str, event_type: EventType, object_id: str, **facts: JsonValue) -> None:
    """Write a delivery for each endpoint of the project that subscribes to `event_type`.

    `facts` are added to the `data` of the event, which otherwise is the object's id.
    """
    values = {"project": project_id, "type": str(event_type), "object": object_id, "event": ids.webhook_event_id()}
    session.execute(_EMIT, values | {"facts": json.dumps(facts)})
