#!/bin/sh
# Runs both cores against each other by seed, on all processors: testkit/src/cores.rs.
#
#   scripts/cores.sh [SEEDS [FIRST]]      1,000,000 seeds from 0 on by default: about 3 minutes on 2 cores
#   scripts/cores.sh show SEED            the log of one seed, and what is wrong with it
set -eu
cd "$(dirname "$0")/.."

exec cargo run --quiet --release -p bellwire-testkit --example cores -- "$@"
