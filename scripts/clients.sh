#!/usr/bin/env bash
# The Python clients that PROTOCOL.md (L0) and docs/protocol/python-client.md (L1) print, on asyncio
# and on Twisted, against all cases of their levels.
#
#   scripts/clients.sh
#
# Needs python3, version 3.11 or later, with venv. Twisted is installed from the package index that
# pip is set up for, at the versions below, into target/clients/venv, or where CLIENTS_DIR says. A
# venv that has them is used again.
# Exits with 1 if a case fails. Cases that need a feature that a testee lacks are skipped and named.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=${CLIENTS_DIR:-$PWD/target/clients}
python=$dir/venv/bin/python
packages=(
  twisted==26.10.0 attrs==26.1.0 automat==25.4.16 constantly==23.10.4 hyperlink==21.0.0 idna==3.20
  incremental==24.11.0 packaging==26.4 typing-extensions==4.16.0 zope-interface==8.7
)

fail() { echo "scripts/clients.sh: $*" >&2; exit 1; }

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "python3 is missing or older than 3.11: install Python 3.11 or later"

echo "== the printed blocks, into $dir/printed"
rm -rf "$dir/printed"
mkdir -p "$dir/printed"
awk -v dir="$dir/printed" '
  /^```python / { file = dir "/" $2; next }
  /^```/ { file = "" }
  file { print > file }' PROTOCOL.md docs/protocol/python-client.md
for file in aio.py tw.py bellwire.py bellwire_aio.py bellwire_twisted.py; do
  [ -s "$dir/printed/$file" ] || fail "the documents have no block $file"
  echo "   $file: $(wc -l <"$dir/printed/$file") lines"
done

echo "== Twisted, into $dir/venv"
[ -x "$python" ] || python3 -m venv "$dir/venv" ||
  fail "no venv: install the venv module of python3 (for example \`apt install python3-venv\`)"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps "${packages[@]}" ||
  fail "pip cannot install ${packages[*]}"
"$python" -m pip check || fail "the packages do not fit together"

echo "== the conformance kit"
cargo build --quiet -p bellwire-conformance
kit=${CARGO_TARGET_DIR:-target}/debug/bellwire-conformance

# Runs the testee $2 against all cases up to the level $3. Twisted prints why it closes a connection: that is
# in the log.
run() {
  local log=$dir/$1-$3.log
  echo "== $1, $3: $2"
  "$kit" run client --level "$3" --patience 10000 -- "$python" "conformance/examples/$2" \
    "$dir/printed" "$3" 2>"$log" || fail "the client on $1 fails; what it printed is in $log"
}

for level in L0 L1; do
  run asyncio document_testee.py "$level"
  run twisted document_testee_twisted.py "$level"
done
echo "all clients pass"
