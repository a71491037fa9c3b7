"""`python -m worker.training.merge`: merge an adapter into its base model."""
