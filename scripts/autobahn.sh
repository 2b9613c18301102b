#!/bin/sh
# Runs the Autobahn test suite for WebSockets against `examples/ws_echo.rs`: docs/autobahn.md.
#
#   scripts/autobahn.sh PYTHON2 [CASE...]
#
# PYTHON2 is a Python 2.7 with `pip install autobahntestsuite==0.8.2`: the later release 25.10.1 does
# not start with Python 3.11. Without CASE: all cases but those of compression
# (12.*, 13.*), which bellwire does not have. The reports are in target/autobahn.
set -eu
cd "$(dirname "$0")/.."

python=$1
shift
[ $# -gt 0 ] || set -- '1.*' '2.*' '3.*' '4.*' '5.*' '6.*' '7.*' '9.*' '10.*'
address=127.0.0.1:9001
reports=${CARGO_TARGET_DIR:-target}/autobahn
mkdir -p "$reports"

cases=$(printf '"%s",' "$@")
cat >"$reports/client.json" <<END
{
    "outdir": "$reports",
    "servers": [{"agent": "bellwire", "url": "ws://$address"}],
    "cases": [${cases%,}],
    "exclude-cases": [],
    "exclude-agent-cases": {}
}
END

cargo build --release --example ws_echo --features ws,unstable-core
"${CARGO_TARGET_DIR:-target}/release/examples/ws_echo" "$address" &
server=$!
trap 'kill $server' EXIT
sleep 1
"$(dirname "$python")/wstest" -m fuzzingclient -s "$reports/client.json"
grep -o '"behavior": "[A-Z -]*"' "$reports/index.json" | sort | uniq -c
