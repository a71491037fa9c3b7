"""Teacher answers: where they come from, which ones a run needs, their budget, and prefetching."""
