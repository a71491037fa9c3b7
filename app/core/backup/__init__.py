"""Backups: the database as of one moment and every blob that it names, in one file."""
