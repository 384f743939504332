# shellcheck shell=bash
# A Docker of our own where none answers: in its own network namespace, its files in $scratch, nothing changed on the
# host's network or firewall. Sourced by try.sh.

namespace=

# The daemon that answers already, or one of our own.
use_docker() {
  if docker version >/dev/null 2>&1; then
    say "Docker $(docker version --format '{{.Server.Version}}') answers"
    return
  fi
  need dockerd docker.io
  need iptables iptables
  namespace=zektor-try-$$
  export DOCKER_HOST=unix://$scratch/docker.sock
  ip netns add "$namespace"
  # Not `ip netns exec`: that mounts /sys anew, and the daemon then misses its cgroups.
  nsenter --net="/run/netns/$namespace" ip link set lo up
  setsid nsenter --net="/run/netns/$namespace" dockerd --data-root "$scratch/docker" --exec-root "$scratch/exec" \
    --host "$DOCKER_HOST" --pidfile "$scratch/dockerd.pid" >"$scratch/dockerd.log" 2>&1 &
  await 60 "dockerd answers; see $scratch/dockerd.log" docker version
  say "Docker $(docker version --format '{{.Server.Version}}') started, in the network namespace $namespace"
}

# Ends the daemon that we started, by its id, and removes its namespace.
end_docker() {
  [ -n "$namespace" ] || return 0
  local pid
  if pid=$(cat "$scratch/dockerd.pid" 2>/dev/null); then
    kill "$pid"
    await 60 "dockerd $pid ends" gone "$pid"
  fi
  ip netns del "$namespace"
}

gone() { ! kill -0 "$1" 2>/dev/null; }
