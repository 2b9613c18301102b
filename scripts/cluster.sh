#!/bin/sh
# SIGKILL of servers that share topics and keys in Redis, under load from 50 clients, for a minute.
# Checks that no message is lost, doubled or changed, and that no call and no key runs twice. Linux;
# needs redis-server, 7 or later.
#
#   scripts/cluster.sh [OPTIONS]    --seconds, --servers, --clients; --help lists all
set -eu
cd "$(dirname "$0")/.."
exec cargo run --release --features redis --example cluster -- "$@"
