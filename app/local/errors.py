"""The errors of the embedded stack. Imports nothing, so the client commands can catch them on every platform."""


class LocalStackError(Exception):
    """The embedded stack cannot start or continue; the message says what to do."""


class AlreadyRunning(LocalStackError):
    """Another process is using the state directory."""
