"""GPU workers: Celery tasks that claim jobs and supervise trainer subprocesses."""
