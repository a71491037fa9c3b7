"""Checks of an installation, for `grouptune doctor`. They change nothing that lasts."""
