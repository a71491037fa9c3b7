"""Checks that a hostile answer can make run forever: each `check` runs in a process with a time limit."""
