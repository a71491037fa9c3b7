"""Benchmarks and checks that developers run by hand; each module is a script."""
