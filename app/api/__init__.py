"""The HTTP API: OpenAI's wire format on top of `app.core`."""
