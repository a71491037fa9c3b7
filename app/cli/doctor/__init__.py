"""`grouptune doctor`: check an installation."""
