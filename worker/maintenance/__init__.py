"""Periodic clean-up of expired and orphaned data."""
