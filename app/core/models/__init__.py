"""Base models and trained adapters."""
