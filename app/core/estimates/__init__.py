"""Estimates of jobs: counted work times constants, calibrated with finished jobs. docs/estimates.md has the model."""
