#!/bin/sh
# Reads secrets from files: if NAME_FILE is set, NAME is set to the content of that file before the command starts.
# (GROUPTUNE_SECRET_KEYS_FILE is not listed: the processes read that file themselves.)
set -eu
for name in DATABASE_URL REDIS_URL AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN \
    GROUPTUNE_METRICS_TOKEN GROUPTUNE_JUDGE_API_KEY GROUPTUNE_GRADER_SIGNING_SECRET GROUPTUNE_ROLLOUT_API_KEY \
    GROUPTUNE_SERVE_API_KEY; do
    eval "path=\${${name}_FILE:-} value=\${${name}:-}"
    [ -n "$path" ] || continue
    if [ -n "$value" ]; then
        echo "Set $name or ${name}_FILE, not both." >&2
        exit 78
    fi
    if ! value=$(cat -- "$path"); then
        echo "${name}_FILE names a file that uid $(id -u) cannot read." >&2
        exit 78
    fi
    export "$name=$value"
    unset "${name}_FILE"
done
exec "$@"
