"""HTTP: OpenAI's wire format over the kernel."""
