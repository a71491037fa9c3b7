"""The shared kernel: spec, graders, job machine and storage. Knows neither FastAPI nor torch."""
