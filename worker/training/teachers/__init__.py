"""Teacher answers: who writes them, their budget, and prefetching."""
