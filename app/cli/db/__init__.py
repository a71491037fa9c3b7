"""`grouptune db`: database schema, first API key, backup and restore."""
