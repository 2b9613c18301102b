#!/bin/bash
# Measures how many messages per second bellwire's topic stores accept, beside a Redis stream and a
# JetStream stream, and writes docs/performance/stores.md. About 6 minutes on a quiet machine.
#
#   benches/peers/stores.sh [--runs 5] [--seconds 3] [--rows memory,sqlite] [--dir DIR]
#
# DIR is on the disk to be measured; by default it is in the target folder. It needs redis-server and nats-server.
set -euo pipefail
cd "$(dirname "$0")/../.."

for server in redis-server nats-server; do
    if ! command -v "$server" > /dev/null; then
        echo "$server not found; on Debian or Ubuntu: apt-get install redis-server nats-server" >&2
        exit 1
    fi
done

export PEERS_COMMAND="benches/peers/stores.sh${*:+ $*}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-benches/peers/target}"
cargo build --release --manifest-path benches/peers/Cargo.toml
exec "$CARGO_TARGET_DIR/release/bellwire-peers" stores \
    --out docs/performance/stores.md --dir "$CARGO_TARGET_DIR/stores" "$@"
