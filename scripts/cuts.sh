#!/bin/sh
# Makes every kind of cut at every byte of the session of tests/sweeps/cuts.rs. (The test command
# tries some kinds at every 47th byte.) Some minutes on two cores.
#
#   scripts/cuts.sh [STEP]         1 by default: the bytes from one cut to the next
set -eu
cd "$(dirname "$0")/.."

BELLWIRE_CUTS_STEP=${1:-1} cargo test --quiet --all-features --test sweeps cuts:: -- --nocapture
