#!/bin/sh
# Row 23 of the threats: how soon each end notices that the other is stopped, or that the network loses
# everything, and that no message is missed after that. Linux, about a minute a
# run; as root, for the network, which needs iproute2.
#
#   scripts/half_open.sh [RUNS]      2 by default
set -eu
cd "$(dirname "$0")/.."
exec cargo run --release --example half_open -- "${1:-2}"
