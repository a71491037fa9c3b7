"""The engine: one loop for supervised, dft, reinforcement and gft. Knows no SQL, Celery or HTTP."""
