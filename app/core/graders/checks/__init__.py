"""Checks that a hostile answer can make endless: each module's `check` runs in a process that is killed in time."""
