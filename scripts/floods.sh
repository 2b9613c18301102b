#!/bin/sh
# Runs the floods of SECURITY.md at full size, and ten thousand idle connections. Measures resident
# memory, and the p99 of a clean client meanwhile. Linux, some minutes.
#
#   scripts/floods.sh [SCALE]
#
# SCALE, by default 1, multiplies the counts of the floods.
set -eu
cd "$(dirname "$0")/.."
ulimit -n "$(ulimit -Hn)"

failed=0
cargo run --release --all-features --example floods -- "${1:-1}" || failed=1
cargo run --release --all-features --example idle_connections || failed=1
exit $failed
