#!/bin/bash
# Builds the two images from binaries of this checkout. Build those first, on a system that is not newer than the
# images' base (Debian 12): cargo build --release --workspace --bins
#
#   PROFILE    release (default) or debug
#   BASE       plain base image; POSTGRES: image with PostgreSQL 18 and a user postgres
#   IMAGE, RESTORER_IMAGE   names of the results
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}/${PROFILE:-release}
base=${BASE:-debian:bookworm-slim}
postgres=${POSTGRES:-postgres:18-bookworm}
image=${IMAGE:-zektor:local}
restorer_image=${RESTORER_IMAGE:-zektor-restorer:local}
[ ! -e "$here/.env" ] || uid=$(sed -n 's/^ZEKTOR_UID=//p' "$here/.env")
uid=${ZEKTOR_UID:-${uid:-10001}}

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
for name in zektor zektor-{scheduler,backup-worker,wal-archiver,restorer,catalog}; do
  [ -x "$target/$name" ] || { echo "$target/$name is missing; run cargo build (see the top of this script)" >&2; exit 1; }
  strip --strip-debug -o "$context/$name" "$target/$name"
done
install -m 755 "$here/ready.sh" "$context/ready.sh"
install -m 644 "$here/Dockerfile" "$context/Dockerfile"

build() { # target, name
  docker build --quiet --target "$1" --tag "$2" \
    --build-arg BASE="$base" --build-arg POSTGRES="$postgres" --build-arg UID="$uid" "$context"
}
build zektor "$image"
build restorer "$restorer_image"
# Fails when the base is older than the machine the binaries come from.
for one in "$image" "$restorer_image"; do
  docker run --rm --network none --entrypoint zektor-scheduler "$one" --version
done
