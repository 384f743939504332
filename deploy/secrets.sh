#!/bin/bash
# Makes what must be secret, once: .env (passwords, who the services run as) and secrets/master.key, in this
# directory or in the one given. What exists already is kept.
#
# The master key opens every sealed connection string. Keep a copy of it away from this machine.
set -euo pipefail
directory=${1:-$(dirname "$0")}
umask 077

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# The key must be readable by its owner alone, and its owner must be who the services run as. Root gives it
# to a user that no container and no person has; anybody else runs the services as himself.
if [ "$(id -u)" = 0 ]; then uid=10001; else uid=$(id -u); fi

if [ ! -e "$directory/.env" ]; then
  cat >"$directory/.env" <<ENV
ZEKTOR_UID=$uid
NATS_PASSWORD=n$(random)
CATALOG_PASSWORD=c$(random)
S3_ACCESS_KEY=zektor
S3_SECRET_KEY=s$(random)
DEMO_PASSWORD=d$(random)
ENV
  echo "made $directory/.env"
fi
if [ ! -e "$directory/secrets/master.key" ]; then
  mkdir -p "$directory/secrets"
  head -c 32 /dev/urandom | base64 >"$directory/secrets/master.key"
  [ "$(id -u)" != 0 ] || chown "$uid:$uid" "$directory/secrets/master.key"
  echo "made $directory/secrets/master.key; keep a copy of it elsewhere"
fi
