"""Webhooks: who wants to hear of what, and what has yet to be said to whom. Jobs write to it, workers deliver."""
