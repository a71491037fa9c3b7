"""Inference: the models that can answer, the engines that run them, and their usage."""
