"""How a model reads a chat: its template and its tokenizer, without transformers and torch."""
