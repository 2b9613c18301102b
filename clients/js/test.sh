#!/usr/bin/env bash
# Tests the JavaScript client: builds the Rust binaries that it is tested against, installs what package-lock.json
# names, and runs `npm test`.
#
#   clients/js/test.sh
#
# Needs node 20 or later, npm, openssl, and cargo. OFFERS_SERVER and CONFORMANCE may name binaries that are built
# already; then cargo is not needed. CARGO_TARGET_DIR is respected.
set -euo pipefail
cd "$(dirname "$0")"

fail() { echo "clients/js/test.sh: $*" >&2; exit 1; }

command -v node >/dev/null || fail "node is missing: install Node 20 or later"
command -v npm >/dev/null || fail "npm is missing: install it with Node"
command -v openssl >/dev/null || fail "openssl is missing: the test of TLS makes a certificate with it"
node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' ||
  fail "node is $(node --version): install Node 20 or later"

if [ -z "${OFFERS_SERVER:-}" ] || [ -z "${CONFORMANCE:-}" ]; then
  command -v cargo >/dev/null || fail "cargo is missing: install Rust, or set OFFERS_SERVER and CONFORMANCE"
  root=$(cd ../.. && pwd)
  target=${CARGO_TARGET_DIR:-$root/target}
  echo "== the server and the conformance kit, into $target"
  (cd "$root" && cargo build --quiet -p bellwire-conformance && cargo build --quiet --example offers_server)
  export OFFERS_SERVER=${OFFERS_SERVER:-$target/debug/examples/offers_server}
  export CONFORMANCE=${CONFORMANCE:-$target/debug/bellwire-conformance}
fi
[ -x "$OFFERS_SERVER" ] || fail "there is no program $OFFERS_SERVER"
[ -x "$CONFORMANCE" ] || fail "there is no program $CONFORMANCE"

echo "== npm ci"
npm ci --ignore-scripts

echo "== npm test, with $(node --version)"
npm test
echo "the JavaScript client passes"
