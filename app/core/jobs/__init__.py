"""Jobs: state machine, lifecycle, leases, and the journal of what a trainer reports."""
