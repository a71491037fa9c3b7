"""`grouptune evals`."""
