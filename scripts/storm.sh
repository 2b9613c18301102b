#!/bin/sh
# SECURITY.md, threat 25: 2,000 clients of a server that is killed by SIGKILL and started again.
# Shows how they reconnect, and whether anything is lost. Linux, about two minutes.
#
#   scripts/storm.sh [SECONDS]...      how long the server is gone, each time; 0, 1, 2, 5 and 10 by default
set -eu
cd "$(dirname "$0")/.."
ulimit -n "$(ulimit -Hn)"
exec cargo run --release --example storm -- "$@"
