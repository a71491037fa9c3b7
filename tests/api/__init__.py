"""The HTTP API, driven by the official SDK over a real socket."""
