"""Rollouts of the current policy: in this process or on a vLLM server."""
