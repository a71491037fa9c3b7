"""Chat templates and tokenizers of models, without transformers and torch."""
