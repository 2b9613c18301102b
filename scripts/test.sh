#!/bin/sh
# Runs all the tests: `cargo test --all-features`. They start `redis-server`, 7 or later, so this
# installs it with apt-get where it is missing, and says so.
#
#   scripts/test.sh [ARGUMENT...]     passed on to `cargo test --all-features`
set -eu
cd "$(dirname "$0")/.."

if ! command -v redis-server > /dev/null; then
  if ! command -v apt-get > /dev/null; then
    echo 'scripts/test.sh: install redis-server, 7 or later: the tests start it' >&2
    exit 1
  fi
  echo 'scripts/test.sh: installing redis-server with apt-get'
  root=
  if [ "$(id -u)" != 0 ]; then root=sudo; fi
  $root apt-get update
  $root apt-get install --yes --no-install-recommends redis-server
fi
exec cargo test --all-features "$@"
