#!/bin/bash
# Proves compose.yml: brings all of it up from locally made images, takes a backup, restores, compares every row,
# kills a worker in the middle of a second backup, and takes everything down again. Exits 0 only if the data came
# back equal. Not part of CI; about five minutes.
#
#   deploy/try.sh            as root, on Debian with docker.io docker-compose debootstrap iptables binutils
#     --keep                 leaves it running and says how to reach it
#     --no-build             takes the binaries of the last `cargo build`
#
# Where no Docker answers, it starts one in a network namespace of its own. Nothing is pulled and nothing is published.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
keep= built=

say() { printf '\n[%3d s] %s\n' "$SECONDS" "$*"; }
note() { sed 's/^/        /'; }
die() { printf 'try.sh: %s\n' "$*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || die "$1 is missing; run: apt-get install --no-install-recommends $2"; }

# Asks until it is so, at most so many seconds.
await() { # seconds, what, command...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || die "it did not happen in time: $what"
    sleep 0.5
  done
}

for option in "$@"; do
  case $option in
    --keep) keep=1 ;;
    --no-build) built=1 ;;
    *) die "unknown option $option; there are --keep and --no-build" ;;
  esac
done
[ "$(id -u)" = 0 ] || die "run it as root: it makes a network namespace and a Debian"
need docker docker.io
need docker-compose docker-compose
need debootstrap debootstrap
need strip binutils
scratch=$(mktemp -d "${TMPDIR:-/tmp}/zektor-try.XXXXXX")
. "$here/try/docker.sh"
. "$here/try/images.sh"

compose() { docker-compose --project-name zektor-try --env-file "$scratch/.env" --file "$here/compose.yml" "$@"; }
services=(scheduler backup-worker-1 backup-worker-2 wal-archiver restorer catalog)
container() { compose ps -q "$1"; }
export ZEKTOR_SECRETS=$scratch/secrets
# Slow enough that a worker can be killed in the middle: a test of 150 MB.
export ZEKTOR_BACKUP_MAX_RATE_KIB=12288

take_down() {
  local code=$?
  trap - EXIT INT TERM
  if [ "$code" != 0 ] && [ -e "$scratch/up" ]; then
    compose ps >&2 || true
    compose logs --no-color --tail=30 "${services[@]}" 2>&1 | cut -c1-600 >&2 || true
  fi
  if [ -n "$keep" ] && [ -e "$scratch/up" ]; then
    say "Left running. Reach it with:"
    note <<EOF
export DOCKER_HOST=${DOCKER_HOST:-} ZEKTOR_SECRETS=$ZEKTOR_SECRETS
docker-compose -p zektor-try --env-file $scratch/.env -f $here/compose.yml exec scheduler zektor status
EOF
    exit "$code"
  fi
  say "Taking everything down"
  if [ -e "$scratch/up" ]; then
    compose --profile command down --volumes --timeout 20 >"$scratch/down.log" 2>&1 || cat "$scratch/down.log" >&2
  fi
  if [ -z "$namespace" ]; then docker rmi "${all_images[@]}" >/dev/null 2>&1 || true; fi
  end_docker
  rm -rf "$scratch"
  if [ "$code" = 0 ]; then say "The data came back, all of it, exactly."; else say "FAILED"; fi
  exit "$code"
}
trap take_down EXIT
trap 'exit 130' INT TERM

# The command, in a container; shown with its answer.
zektor() {
  printf '        $ zektor %s\n' "$*"
  compose run --rm -T zektor "$@" 2>&1 </dev/null | grep -v 'zektor_run \.\.\.' | sed 's#://\([^:]*\):[^@]*@#://\1:...@#' | note
}
# The same for the script: its document, on stdout.
answer() { compose run --rm -T zektor --output json "$@" 2>"$scratch/stderr" </dev/null || { cat "$scratch/stderr" >&2; return 1; }; }
# A field of a document from stdin: the first of that name.
field() { tr -d '\n' | sed -n "s/.*[{,] *\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" | head -n 1; }

source_sql() { compose exec -T demo-db psql -h /var/run/postgresql -XAtq -v ON_ERROR_STOP=1 -U postgres -d shop -c "$1" </dev/null; }
# A branch listens inside the restorer's container.
branch_sql() { compose exec -T restorer psql -XAtq -v ON_ERROR_STOP=1 -d "$1" -c "$2" </dev/null; }

healthy() { # every service that has a health check
  local all sick
  all=$(docker inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}' $(compose ps -q))
  sick=$(grep -c -v -x -e healthy -e none <<<"$all") || true
  [ "$sick" = 0 ] && [ "$(grep -c -x healthy <<<"$all")" -ge 10 ]
}

archived() { # LSN: the archive has the source's WAL up to there
  local lsn
  lsn=$(answer wal status shop | field archived_lsn)
  [ "$(source_sql "SELECT '$lsn'::pg_lsn >= '$1'::pg_lsn")" = t ]
}

# Every row of every table of the demo, as counts and digests.
DIGEST="SELECT 'orders: ' || count(*) || ' rows, ' || md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o
  UNION ALL SELECT 'notes: ' || count(*) || ' rows, ' || md5(string_agg(n::text, ',' ORDER BY id)) FROM notes n
  ORDER BY 1"

same() { # branch, connection URI: exactly the rows of the source
  local found
  found=$(branch_sql "$2" "$DIGEST")
  printf 'source:\n%s\nbranch %s:\n%s\n' "$expected" "$1" "$found" | note
  [ "$found" = "$expected" ] || die "branch $1 does not hold the rows of the source"
}

restore() { # branch, how...
  local branch=$1 document
  shift
  printf '        $ zektor restore shop %s --as %s --wait\n' "$*" "$branch"
  document=$(answer restore shop "$@" --as "$branch" --wait)
  uri=$(field connection_uri <<<"$document")
  printf 'status %s, stop LSN %s, last commit %s, %s ms\n' "$(field status <<<"$document")" \
    "$(field stop_lsn <<<"$document")" "$(field last_commit_at <<<"$document")" \
    "$(field duration_ms <<<"$document")" | note
  same "$branch" "$uri"
}

bring_up() {
  [ -n "$built" ] || (cd "$here/.." && cargo build --quiet --workspace --bins)
  use_docker
  base_image
  server_images
  "$here/secrets.sh" "$scratch" >/dev/null
  ZEKTOR_UID=$(sed -n 's/^ZEKTOR_UID=//p' "$scratch/.env") zektor_images
  say "docker-compose up"
  : >"$scratch/up"
  compose up -d >"$scratch/up.log" 2>&1 || { cat "$scratch/up.log" >&2; die "docker-compose up failed"; }
  await 180 "every container is healthy" healthy
  compose ps | note
}

first_backup_and_restore() {
  say "A database with rows, registered and backed up"
  source_sql "CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL, total numeric(10,2), memo text);
    CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), body bytea);
    INSERT INTO orders SELECT n, n % 997, n * 1.17, repeat(md5(n::text), 8) FROM generate_series(1, 400000) n;"
  source_sql "SELECT pg_size_pretty(pg_database_size('shop'))" | note
  printf '        $ zektor instance add shop --dsn -\n'
  echo "postgres://zektor:$DEMO_PASSWORD@demo-db:5432/shop" |
    compose run --rm -T zektor instance add shop --dsn - 2>"$scratch/stderr" | note || die "$(cat "$scratch/stderr")"
  zektor backup create shop --name first --wait

  say "Rows written, changed and deleted after the backup"
  source_sql "INSERT INTO orders SELECT n, n % 7, n * 0.5, md5(n::text) FROM generate_series(400001, 430000) n;
    UPDATE orders SET total = total + 1 WHERE id % 11 = 0; DELETE FROM orders WHERE id % 1000 = 3;
    INSERT INTO notes (body) SELECT decode(repeat(md5(random()::text), 64), 'hex') FROM generate_series(1, 5000);"
  expected=$(source_sql "$DIGEST")
  local lsn
  lsn=$(source_sql "SELECT pg_current_wal_insert_lsn()")
  await 60 "the archive has $lsn" archived "$lsn"
  zektor wal status shop

  say "Restored to the latest moment, as a new branch"
  restore copy --latest
}

second_backup_with_a_kill() {
  say "A second backup; the worker that takes it is killed"
  zektor backup create shop --name second
  await 60 "a worker copies" copying
  local killed id copied
  killed=$(field worker <<<"$second") id=$(field id <<<"$second") copied=$(field done_bytes <<<"$second")
  docker kill --signal KILL "$(container "$killed")" >/dev/null
  printf '%s killed, with %s bytes copied\n' "$killed" "$copied" | note
  await 240 "the second backup is completed" completed
  zektor backup list shop
  local started=() line
  while read -r line; do started+=("$(field worker <<<"$line")"); done < <(events_of started "$id")
  printf 'started by: %s; completed events: %s\n' "${started[*]}" "$(events_of completed "$id" | wc -l)" | note
  [ "${started[-1]}" != "$killed" ] || die "the killed worker $killed completed the backup"
  [ "$(events_of completed "$id" | wc -l)" = 1 ] || die "the backup was not completed exactly once"
  docker start "$(container "$killed")" >/dev/null
  await 60 "$killed is healthy again" healthy

  say "Restored from that backup"
  restore second --backup "$id"
}

events_of() { answer events --type "backup.$1" --instance shop | grep -F "\"backup_id\":\"$2\""; }

# The second backup as the catalog has it, in $second.
look() { second=$(answer backup list shop | tr -d '\n' | grep -o '{[^{}]*"name": *"second"[^{}]*}'); }
copying() { look && [ "$(field status <<<"$second")" = in_progress ] && [ "$(field done_bytes <<<"$second")" -gt 0 ]; }
completed() { look && [ "$(field status <<<"$second")" = completed ]; }

branch_protected() { answer backup list shop --branch copy | grep -q '"status": *"completed"'; }

the_branch_lives() {
  say "The new branch is archived and backed up too, and outlives a restart of the restorer"
  await 120 "the branch copy has its first backup" branch_protected
  zektor backup list shop --branch copy
  zektor wal status shop --branch copy
  compose restart --timeout 30 restorer >/dev/null 2>&1
  await 60 "the restorer is healthy again" healthy
  await 60 "the branch copy answers" branch_sql "$uri" "SELECT 1"
  same copy "$uri"
}

say "From source to containers"
bring_up
DEMO_PASSWORD=$(sed -n 's/^DEMO_PASSWORD=//p' "$scratch/.env")
first_backup_and_restore
the_branch_lives
second_backup_with_a_kill
