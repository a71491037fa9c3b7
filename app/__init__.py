"""Grouptune: the API, the command line and the shared kernel (`app.core`)."""
