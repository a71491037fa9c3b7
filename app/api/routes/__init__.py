"""Route handlers: each parses the request, calls `app.core` in one transaction, and builds the response."""
