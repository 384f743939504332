#!/bin/bash
# Health check of a Zektor container: /readyz of the service in it answers 200. Needs nothing but bash.
set -euo pipefail
port=${ZEKTOR_HTTP_LISTEN##*:}
exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r _ status _ <&3
[ "$status" = 200 ]
