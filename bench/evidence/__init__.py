"""Compares the methods on tasks with a verifier: `make evidence`, or `python -m bench.evidence`.

`matrix` plans the runs, `runs` performs one through the service's API, `results` stores it in
`bench/results/evidence.json`, and `page` writes docs/evidence.md from that file. Stored runs are not repeated.
"""
