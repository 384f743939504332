#!/bin/sh
# Run once by the PostgreSQL image, when the demo database is made: the role that Zektor backs up with.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$ZEKTOR_DEMO_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE zektor LOGIN REPLICATION PASSWORD :'password';
SQL
# The image's pg_hba.conf lets replication connections in from the container only.
echo "host replication zektor all scram-sha-256" >>"$PGDATA/pg_hba.conf"
