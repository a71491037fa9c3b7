"""Trackers that a job's metrics go to: each in a process of its own, fed through its standard input."""
