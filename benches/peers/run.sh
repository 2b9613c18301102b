#!/bin/bash
# Measures bellwire beside the bare multiplexers and its peers, and writes tables and plots to
# docs/performance/. Linux; about 40 minutes on a quiet machine.
#
#   benches/peers/run.sh                                      everything, 5 rounds
#   benches/peers/run.sh --quick                              one short round, written to benches/peers/target/quick/
#   benches/peers/run.sh --runs 9 --work in-flight --rows bare,bellwire --out DIR
#                                                             a part, written to DIR
#   benches/peers/run.sh --render                             tables and plots of the last run again
#   benches/peers/run.sh --help                               all options
#
# It needs redis-server and nats-server. As root on Debian or Ubuntu it installs those that are missing.
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
for server in redis-server nats-server; do
    command -v "$server" > /dev/null || missing+=("$server")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        echo "installing ${missing[*]} with apt-get" >&2
        apt-get install --yes --no-install-recommends "${missing[@]}" >&2
    else
        echo "${missing[*]} not found; on Debian or Ubuntu: apt-get install ${missing[*]}" >&2
        exit 1
    fi
fi

defaults=(--out docs/performance --log benches/peers/target/peers.jsonl)
if [[ " $* " == *" --quick "* ]]; then
    defaults=(--out benches/peers/target/quick --log benches/peers/target/quick/peers.jsonl)
fi
for option in "$@"; do
    case "$option" in
        --out | --out=*) unset 'defaults[0]' 'defaults[1]' ;;
        --log | --log=*) unset 'defaults[2]' 'defaults[3]' ;;
    esac
done

export PEERS_COMMAND="benches/peers/run.sh${*:+ $*}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-benches/peers/target}"
cargo build --release --manifest-path benches/peers/Cargo.toml
exec "$CARGO_TARGET_DIR/release/bellwire-peers" all "${defaults[@]}" "$@"
