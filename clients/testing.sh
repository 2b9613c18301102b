# Functions of the test scripts of the clients, which read this file.

root=$(git rev-parse --show-toplevel 2>/dev/null || (cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd))

fail() { echo "$0: $*" >&2; exit 1; }

# Says what it does, and does it.
step() {
  local name=$1
  shift
  echo "== $name: $*"
  "$@" || fail "$name failed"
}

# A venv in the folder $1 with the packages of the file $2 and nothing from elsewhere.
venv() {
  python=$1/bin/python
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "python3 is missing or older than 3.11: install Python 3.11 or later"
  [ -x "$python" ] || step "a new venv" python3 -m venv "$1" ||
    fail "no venv: install the venv module of python3 (for example \`apt install python3-venv\`)"
  step "packages" "$python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$2"
}

# Installs the packages in these folders of the checkout as a user would.
install_from() {
  # Folders of earlier builds would go into the package.
  rm -rf ./build ../python/build
  step "the client" "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --force-reinstall "$@"
  step "dependencies" "$python" -m pip check
}

# Builds the servers, unless they are named.
servers() {
  local built=${CARGO_TARGET_DIR:-target}/debug
  case $built in /*) ;; *) built=$root/$built ;; esac
  if [ -z "${OFFERS_SERVER:-}" ] || [ -z "${BELLWIRE_CONFORMANCE:-}" ]; then
    command -v cargo > /dev/null || fail "cargo is missing: install Rust, or set OFFERS_SERVER and BELLWIRE_CONFORMANCE"
    (cd "$root" && step "the conformance kit" cargo build --quiet -p bellwire-conformance)
    (cd "$root" && step "a server" cargo build --quiet --features sqlite,ws --example offers_server)
  fi
  export OFFERS_SERVER=${OFFERS_SERVER:-$built/examples/offers_server}
  export BELLWIRE_CONFORMANCE=${BELLWIRE_CONFORMANCE:-$built/bellwire-conformance}
}

# Runs all client cases of all levels against the testee $1. A case that is skipped is a failure, unless it is about
# WebSockets, which these clients do not have.
conformance() {
  local report log
  report=$(mktemp) log=$(mktemp)
  echo "== conformance: $1, level L3"
  "$BELLWIRE_CONFORMANCE" run client --level L3 --jobs 4 --patience 30000 --json "$report" -- "$python" "$1" 2> "$log" ||
    fail "cases fail; what the testees printed is in $log"
  "$python" - "$report" << 'END' || fail "cases were skipped; the report is $report"
import json, sys
cases = json.load(open(sys.argv[1]))["cases"]
skipped = [case for case in cases if case["outcome"] == "skipped" and case["reason"] != "the testee has no ws"]
sys.exit(bool(skipped))
END
  rm -f "$report" "$log"
}
