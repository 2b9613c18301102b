#!/bin/sh
# Runs peers that make a server hold as much as they can (rows 35 and 36 of SECURITY.md), at full
# size. Measures the resident memory, and the outcome of a clean client's calls. Linux, a minute or
# two.
#
#   scripts/hoarders.sh
set -eu
cd "$(dirname "$0")/.."
ulimit -n "$(ulimit -Hn)"
exec cargo run --release --all-features --example hoarders
