"""Computes rewards with the graders of `app.core.spec.graders`. Start with `run`."""
