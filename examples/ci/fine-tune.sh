#!/bin/sh
# For any CI system: GROUPTUNE_URL and GROUPTUNE_API_KEY in the environment, the job's file as the first argument.
# A second run for the same commit attaches to the job of the first one.
# Exit codes: 0 succeeded, 3 timed out and goes on, 5 failed, 6 cancelled, 7 missed a gate, others: it never began.
set -eu
exec grouptune jobs create --file "$1" --wait --timeout 5h --idempotency-key "fine-tune/$(git rev-parse HEAD)" \
    --junit grouptune.xml --summary grouptune.md
