"""Where blobs live: uploaded files, checkpoints and adapters."""
