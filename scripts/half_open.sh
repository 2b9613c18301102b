#!/bin/sh
# SECURITY.md, threat 23: measures how soon each end notices that the other is stopped, or that the
# network loses all packets, and checks that no message is missed after that. Linux, about a minute
# a run. The network cases need root and iproute2.
#
#   scripts/half_open.sh [RUNS]      2 by default
set -eu
cd "$(dirname "$0")/.."
exec cargo run --release --example half_open -- "${1:-2}"
