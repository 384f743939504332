#!/bin/bash
# What compose.yml relies on in the public postgres image, for the one that try.sh makes: a database made on the
# first start from POSTGRES_DB and POSTGRES_PASSWORD, then the scripts of /docker-entrypoint-initdb.d.
set -euo pipefail
export POSTGRES_USER=${POSTGRES_USER:-postgres} POSTGRES_DB=${POSTGRES_DB:-postgres}

if [ "${1:-}" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p -m 700 "$PGDATA"
  initdb --username="$POSTGRES_USER" --auth-host=scram-sha-256 --auth-local=trust --encoding=UTF8 --locale=C.UTF-8 \
    --pwfile=<(printf '%s\n' "${POSTGRES_PASSWORD:?}") "$PGDATA"
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  # By socket only, so that nobody takes the half-made database for ready.
  pg_ctl --pgdata="$PGDATA" -o "-c listen_addresses='' -c unix_socket_directories=/var/run/postgresql" --wait start
  export PGHOST=/var/run/postgresql
  [ "$POSTGRES_DB" = postgres ] || createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
  for script in /docker-entrypoint-initdb.d/*.sh; do
    [ ! -e "$script" ] || "$script"
  done
  unset PGHOST
  pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
fi
[ "${1:-}" = postgres ] || exec "$@"
shift
exec postgres -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql "$@"
