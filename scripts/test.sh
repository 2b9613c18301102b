#!/bin/sh
# Runs all the tests: `cargo test --all-features`, and those of the Python clients in clients/. The
# first start `redis-server`, 7 or later; the others need `python3`, 3.11 or later, with venv, and
# packages of the Python index. This installs with apt-get what is missing, and says so.
#
#   scripts/test.sh                  everything
#   scripts/test.sh ARGUMENT...      `cargo test --all-features ARGUMENT...`, and nothing else
set -eu
cd "$(dirname "$0")/.."

# Installs a package for a reason.
install() {
  if ! command -v apt-get > /dev/null; then
    echo "scripts/test.sh: install $1: $2" >&2
    exit 1
  fi
  echo "scripts/test.sh: installing $1 with apt-get: $2"
  root=
  if [ "$(id -u)" != 0 ]; then root=sudo; fi
  $root apt-get update
  $root apt-get install --yes --no-install-recommends "$1"
}

if ! command -v redis-server > /dev/null; then
  install redis-server 'version 7 or later, which the tests start'
fi
if [ $# -gt 0 ]; then
  exec cargo test --all-features "$@"
fi
if ! command -v python3 > /dev/null; then
  install python3 'version 3.11 or later, for the Python clients'
fi
if ! python3 -c 'import ensurepip, venv' 2> /dev/null; then
  install python3-venv 'the tests of the Python clients run in a venv'
fi

cargo test --all-features
built=${CARGO_TARGET_DIR:-target}/debug
case $built in
  /*) ;;
  *) built=$PWD/$built ;;
esac
export OFFERS_SERVER="$built/examples/offers_server"
export BELLWIRE_CONFORMANCE="$built/bellwire-conformance"
clients/python/test.sh
clients/twisted/test.sh
