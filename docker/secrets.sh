#!/bin/sh
# Creates the secrets for compose.yaml, one file each in the directory `secrets` next to this script. Keeps existing files.
# Other users cannot enter the directory. The files are world-readable because the containers run as other users; a
# container sees only the files mounted into it.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
cd secrets

random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
keep() { # NAME: writes standard input to the file NAME unless it exists
    if [ -e "$1" ]; then cat >/dev/null; else cat >"$1.new"; chmod 444 "$1.new"; mv "$1.new" "$1"; fi
}

random | keep postgres_password
random | keep valkey_password
printf 'requirepass %s\n' "$(cat valkey_password)" | keep valkey.conf
printf 'postgresql+psycopg://grouptune:%s@postgres:5432/grouptune' "$(cat postgres_password)" | keep database_url
printf 'redis://:%s@valkey:6379/0' "$(cat valkey_password)" | keep redis_url
random | head -c 20 | keep s3_access_key
random | head -c 40 | keep s3_secret_key
for role in api worker; do
    random | head -c 20 | keep "s3_${role}_access_key"
    random | head -c 40 | keep "s3_${role}_secret_key"
done
random | keep metrics_token
random | keep serve_api_key
random | keep grafana_password
head -c 32 /dev/urandom | base64 | tr '+/' '-_' | keep secret_keys
echo "The secrets are in $(pwd). Back up secret_keys separately from the database."
