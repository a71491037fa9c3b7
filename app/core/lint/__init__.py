"""Grades the known answers of a data file before a job starts. Start with `run`."""
