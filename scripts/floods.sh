#!/bin/sh
# The floods of SECURITY.md at full size, and ten thousand idle connections: what they cost in
# resident memory, and what a clean client's p99 is beside them. Linux, some minutes.
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
