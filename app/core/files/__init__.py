"""Uploaded data sets and their validation."""
