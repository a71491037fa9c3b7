"""Jobs: states, lifecycle, leases and the journal of what a run reports."""
