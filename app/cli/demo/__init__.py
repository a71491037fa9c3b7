"""`grouptune demo`: starts everything and fine-tunes a small model."""
