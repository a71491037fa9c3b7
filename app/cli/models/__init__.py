"""`grouptune models`: manages base models, fine-tuned models and their exports."""
