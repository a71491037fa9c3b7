"""`grouptune jobs`: create, follow and inspect fine-tuning jobs."""
