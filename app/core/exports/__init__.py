"""Exports of fine-tuned models: finished artefacts that workers make in the background."""
