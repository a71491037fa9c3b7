"""Sources of training rows other than uploads, one module per source. Slow imports stay inside functions."""
