"""`grouptune db`: schema, first key, backup and restore."""
