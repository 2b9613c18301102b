#!/bin/sh
# SIGKILL of a server with topics and keys in a file, under load from 50 clients, 50 times at random
# moments. Checks that no message is lost, doubled or changed, and that no call and no key runs
# twice. Linux, about a minute and a half.
#
#   scripts/kills.sh [OPTIONS]      --durability process: commits do not wait for the disk;
#                                   --help lists the others
set -eu
cd "$(dirname "$0")/.."
exec cargo run --release --features sqlite --example kills -- "$@"
