#!/bin/sh
# For any CI system. Set GROUPTUNE_URL and GROUPTUNE_API_KEY, and pass the job file as the first argument.
# A second run for the same commit attaches to the job of the first run.
# Exit codes: 0 succeeded, 3 timed out (the job keeps running), 5 failed, 6 cancelled, 7 missed a gate;
# docs/ci.md lists the others.
set -eu
exec grouptune jobs create --file "$1" --wait --timeout 5h --idempotency-key "fine-tune/$(git rev-parse HEAD)" \
    --junit grouptune.xml --summary grouptune.md
