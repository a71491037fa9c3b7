"""`grouptune demo`: from an empty machine to a fine-tuned model."""
