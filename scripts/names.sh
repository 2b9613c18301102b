#!/bin/sh
# SECURITY.md, threat 15: what a server still holds after a million topic names, by RSS. Linux only.
#
#   scripts/names.sh [NAMES]       1,000,000 by default
set -eu
cd "$(dirname "$0")/.."

cargo run --quiet --release --example many_names -- "$@"
