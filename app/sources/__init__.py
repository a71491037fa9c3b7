"""Where training rows come from besides uploads, one module a source. Slow imports stay inside functions."""
