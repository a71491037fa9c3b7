"""Evals: criteria for answers to the rows of a data source, their runs, and the comparison of two runs."""
