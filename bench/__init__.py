"""Measurements and checks that run by hand, each a script of its own."""
