#!/bin/sh
# SECURITY.md, threat 29: SIGTERM at random moments, to a server under pipelined load and to a
# server to which clients publish.
#
#   scripts/sigterm.sh [RUNS]      200 runs by default
#
# Passes if every request that the server accepted gets its terminal line, and if every message
# whose publishing call was answered ok reached the subscribers on other connections or was named in
# a gap.
set -eu
cd "$(dirname "$0")/.."

runs=${1:-200}
cargo build --quiet --all-features --examples
BELLWIRE_SIGTERM_RUNS=$runs cargo test --quiet --all-features --test it drain::sigterm -- --nocapture
