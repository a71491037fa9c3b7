"""`grouptune doctor`: checks an installation."""
