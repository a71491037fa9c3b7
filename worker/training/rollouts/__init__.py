"""Rollouts of the current policy, sampled in this process or by a vLLM server."""
