"""`grouptune keys`: manage API keys."""
