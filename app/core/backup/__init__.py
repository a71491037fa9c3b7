"""Backups: a snapshot of the database and every blob that it refers to, in one file."""
