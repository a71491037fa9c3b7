"""ASGI middleware: request ids, tracing, metrics, body limits, idempotency."""
