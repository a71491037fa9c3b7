#!/bin/sh
# Makes the secrets of compose.yaml, each in a file of the directory `secrets` beside this script; keeps what is there.
# The directory is closed to others. The files are not: their containers run as other users and see nothing but them.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
cd secrets

random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
keep() { # NAME: writes standard input there unless it exists
    if [ -e "$1" ]; then cat >/dev/null; else cat >"$1.new"; chmod 444 "$1.new"; mv "$1.new" "$1"; fi
}

random | keep postgres_password
random | keep valkey_password
printf 'requirepass %s\n' "$(cat valkey_password)" | keep valkey.conf
printf 'postgresql+psycopg://grouptune:%s@postgres:5432/grouptune' "$(cat postgres_password)" | keep database_url
printf 'redis://:%s@valkey:6379/0' "$(cat valkey_password)" | keep redis_url
random | head -c 20 | keep s3_access_key
random | head -c 40 | keep s3_secret_key
random | keep metrics_token
random | keep grafana_password
head -c 32 /dev/urandom | base64 | tr '+/' '-_' | keep secret_keys
echo "The secrets are in $(pwd). Back up secret_keys apart from the database."
