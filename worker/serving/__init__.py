"""The embedded inference engine: `python -m worker.serving`, a process that decodes for one base and many adapters."""
