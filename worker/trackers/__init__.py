"""Experiment trackers: each one is a process that receives a job's metrics through its standard input."""
