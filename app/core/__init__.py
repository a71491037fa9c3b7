"""The shared kernel: spec, graders, job machine and storage. Imports neither FastAPI nor torch."""
