"""What the answers that a data file brings along would teach: graded before a job starts. Start with `run`."""
