#!/usr/bin/env bash
# Type checks, tests and conformance of the Python client.
#
#   clients/python/test.sh [PYTEST-ARGUMENT...]
#
# Needs cargo, and python3, version 3.11 or later, with venv. What it installs is in a venv in
# target/clients/python, or where PYTHON_CLIENT_DIR says; a venv that has it is used again. The servers to
# test against are built by cargo, unless OFFERS_SERVER and BELLWIRE_CONFORMANCE name them.
# Exits with 1 if anything fails or is missing. Nothing is skipped.
set -euo pipefail
cd "$(dirname "$0")"
. ../testing.sh

venv "${PYTHON_CLIENT_DIR:-$root/target/clients/python}" requirements-test.txt
install_from .
servers
step "types" "$python" -m mypy
step "tests" "$python" -m pytest -q "$@"
conformance conformance.py
echo "== the Python client passes"
