"""Handlers: each parses, calls the kernel inside one transaction, and shapes the answer."""
