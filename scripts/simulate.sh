#!/bin/sh
# Runs simulations of servers and clients by seed, on two threads: tests/sweeps/simulation.rs, with
# any number of seeds.
#
#   scripts/simulate.sh [SEEDS [FIRST]]      10,000 seeds from 0 on by default
#
# Prints each seed that fails, and how to see its whole log.
set -eu
cd "$(dirname "$0")/.."

BELLWIRE_SEEDS=${1:-10000} BELLWIRE_FIRST=${2:-0} exec \
    cargo test --quiet --release --all-features --test sweeps simulation::histories_hold -- --nocapture
