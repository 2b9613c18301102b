#!/bin/sh
# Fuzzes the targets of fuzz/ with the nightly toolchain; needs `cargo install cargo-fuzz`.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]
#
# Without SECONDS: 600 for `line`, 120 for the others. The corpus grows in fuzz/corpus (not kept).
# It begins with fuzz/seeds, which tests/it/properties.rs makes from the lines of PROTOCOL.md, and
# for WebSockets from a few frames and heads.
# `cores` has no seeds, because its bytes are decisions.
set -eu
cd "$(dirname "$0")/../fuzz"

seconds=${1:-}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- line client reconnect server cores ws ws_frames ws_opening

for target in "$@"; do
    case $target in
        line) time=${seconds:-600} ;;
        *) time=${seconds:-120} ;;
    esac
    seeds=$target
    [ "$target" != reconnect ] || seeds=client
    mkdir -p "corpus/$target" "seeds/$seeds"
    echo "== $target for $time s"
    cargo +nightly fuzz run "$target" "corpus/$target" "seeds/$seeds" -- \
        -max_total_time="$time" -max_len=8192 -timeout=20 -print_final_stats=1
done
