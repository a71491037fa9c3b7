"""`python -m worker.training.merge`: merges an adapter into its base model."""
