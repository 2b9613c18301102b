#!/bin/sh
# Runs all the tests: `cargo test --all-features`, and those of the clients in clients/. It first installs with apt-get
# what is missing, and says so:
#
#   redis-server          7 or later, which tests of the topics and keys in Redis start
#   python3, with venv    3.11 or later, for the Python clients
#   nodejs, npm           20 or later, for the JavaScript client
#   chromium              for the tests of the live page
#   openssl               for a certificate of a test
#
# The clients' tests install packages of PyPI and npm, by the versions that the repository names.
#
#   scripts/test.sh                  everything
#   scripts/test.sh ARGUMENT...      `cargo test --all-features ARGUMENT...`, and nothing else
set -eu
cd "$(dirname "$0")/.."

# Installs the package $1 for the reason $2.
install() {
  if ! command -v apt-get > /dev/null; then
    echo "scripts/test.sh: install $1: $2" >&2
    exit 1
  fi
  echo "scripts/test.sh: installing $1 with apt-get: $2"
  root=
  if [ "$(id -u)" != 0 ]; then root=sudo; fi
  if [ -z "${is_updated:-}" ]; then $root apt-get update; fi
  is_updated=yes
  $root apt-get install --yes --no-install-recommends "$1"
}

# Installs the package $2 if there is no command $1.
need() {
  if ! command -v "$1" > /dev/null; then install "$2" "$3"; fi
}

need redis-server redis-server 'version 7 or later, which the tests start'
if [ $# -gt 0 ]; then
  exec cargo test --all-features "$@"
fi
need python3 python3 'version 3.11 or later, for the Python clients'
if ! python3 -c 'import ensurepip, venv' 2> /dev/null; then
  install python3-venv 'the tests of the Python clients run in a venv'
fi
need node nodejs 'version 20 or later, for the JavaScript client'
need npm npm 'it installs what the tests of the JavaScript client need'
need openssl openssl 'the JavaScript client is tested with a certificate of its own'
need "${CHROMIUM:-chromium}" chromium 'the tests of the live page run in it'

cargo test --all-features
built=${CARGO_TARGET_DIR:-target}/debug
case $built in
  /*) ;;
  *) built=$PWD/$built ;;
esac
export OFFERS_SERVER="$built/examples/offers_server"
export BELLWIRE_CONFORMANCE="$built/bellwire-conformance"
# Two sides by side. The Twisted client installs the one for Python, so these two come one after the other.
log=$(mktemp)
js=
trap 'if [ -n "$js" ]; then kill "$js"; fi; rm -f "$log"' EXIT
echo 'scripts/test.sh: clients/js/test.sh runs at the same time, and is shown last'
clients/js/test.sh > "$log" 2>&1 &
js=$!
failed=
clients/python/test.sh && clients/twisted/test.sh || failed=yes
wait "$js" || failed=yes
js=
cat "$log"
if [ -n "$failed" ]; then
  echo 'scripts/test.sh: tests of the clients fail' >&2
  exit 1
fi
echo 'scripts/test.sh: all tests pass'
