"""Workers: their names, hardware and state, and when each last reported."""
