#!/usr/bin/env bash
# Types, tests and conformance of the JavaScript client, and tests of the live page in Chromium.
#
#   clients/js/test.sh
#
# Needs cargo, node 20 or later with npm, openssl, and Chromium, which is `chromium` or what CHROMIUM names. The
# packages of package-lock.json are installed into clients/js/node_modules. The servers to test against are built by
# cargo, unless OFFERS_SERVER and BELLWIRE_CONFORMANCE name them.
# Exits with 1 if anything fails or is missing. Nothing is skipped.
set -euo pipefail
cd "$(dirname "$0")"
. ../testing.sh

command -v node > /dev/null || fail "node is missing: install Node 20 or later"
node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' ||
  fail "node is $(node --version): install Node 20 or later"
command -v npm > /dev/null || fail "npm is missing: install it with Node"
command -v openssl > /dev/null || fail "openssl is missing: the test of TLS makes a certificate with it"
CHROMIUM=$(command -v "${CHROMIUM:-chromium}") || fail "Chromium is missing: install it, or let CHROMIUM name it"
export CHROMIUM

step "packages" npm ci --ignore-scripts --no-audit --no-fund
servers
step "tests, with node $(node --version)" npm test
echo "== the JavaScript client passes"
