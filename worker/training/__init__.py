"""The trainer: one training loop for supervised, dft, reinforcement and gft, run as a subprocess of the runner.

It uses no SQL, no Celery and no broker, and holds no database or storage credentials: the runner fetches its files and
stores its results. It does send HTTP requests, to teachers, judges, reward servers and vLLM, with the API keys that it
gets in its environment.
"""
