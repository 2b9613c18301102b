#!/bin/sh
# Measures the times that SECURITY.md quotes: slow first lines, one subscriber that stops, and a
# server that is suspended. Linux, some minutes.
#
#   scripts/slow_peers.sh [RUNS]
set -eu
cd "$(dirname "$0")/.."
ulimit -n "$(ulimit -Hn)"
exec cargo run --release --all-features --example slow_peers -- "${1:-5}"
