"""Writes GGUF files, the format of llama.cpp and Ollama, from a base model and its LoRA adapter."""
