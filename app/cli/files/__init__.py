"""`grouptune files`: upload, generate, preview and lint data files."""
