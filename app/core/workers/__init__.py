"""Which workers there are, what they train on, and when they were last heard of."""
