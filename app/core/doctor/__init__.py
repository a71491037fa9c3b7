"""Checks of an installation, for `grouptune doctor`. They leave no changes behind."""
