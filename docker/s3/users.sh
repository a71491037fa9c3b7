#!/bin/sh
# Creates one user of the store for each role, with the policy of the same name in this directory. Safe to repeat.
set -eu
secret() { cat "/run/secrets/$1"; }
MC_HOST_store="http://$(secret s3_access_key):$(secret s3_secret_key)@s3:9000"
export MC_HOST_store
for role in api worker; do
    user=$(secret "s3_${role}_access_key")
    mc admin policy create store "grouptune-$role" "/etc/grouptune/$role.json"
    mc admin user add store "$user" "$(secret "s3_${role}_secret_key")"
    # Attaching a policy again is an error.
    case $(mc admin user info store "$user") in
        *"grouptune-$role"*) ;;
        *) mc admin policy attach store "grouptune-$role" --user "$user" ;;
    esac
done
