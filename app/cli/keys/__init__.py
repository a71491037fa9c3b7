"""`grouptune keys`: manages API keys."""
