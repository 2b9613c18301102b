#!/usr/bin/env bash
# Publishes 20,000 messages in a loop, in every way and to every kind of reader, with the defaults
# of both ends, and prints what the readers lose. ROUNDS (default 50) of each; then once more on one
# processor.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --example bursts
run=(target/release/examples/bursts --rounds "${ROUNDS:-50}")
"${run[@]}"
if command -v taskset >/dev/null; then
    echo "on one processor:"
    taskset -c 0 "${run[@]}"
fi
