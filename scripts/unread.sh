#!/bin/sh
# Measures what SECURITY.md says of peers that do not read: TCP memory, the delay of replies, and
# how long slow readers stay connected, with and without the default limit on unsent bytes. Linux,
# six minutes.
#
#   scripts/unread.sh [SECONDS]
#
# SECONDS, by default 120, is how long the slow readers read.
set -eu
cd "$(dirname "$0")/.."
ulimit -n "$(ulimit -Hn)"
exec cargo run --release --all-features --example unread -- "${1:-120}"
