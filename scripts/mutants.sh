#!/usr/bin/env bash
# Planted bugs: applies each patch of scripts/mutants/ to a copy of this tree, and runs the tests that
# have to fail for it.
#
#   scripts/mutants.sh [NAME...]      all of them by default; NAME is a patch without ".patch"
#
# The copy and what is built of it are in target/mutants, or where MUTANTS_DIR says. A patch is
#   caught     if each test that it names fails, by its name: a hang counts only if a test ends it;
#   survived   if one of them passes, or runs into the bound of this script (MUTANTS_BOUND, seconds);
#   stale      if it does not apply, does not compile, or names a test that is not there, or that
#              fails without it.
# Exits with 1 if any survived or is stale.
set -uo pipefail
cd "$(dirname "$0")/.."

root=$PWD
dir=${MUTANTS_DIR:-$root/target/mutants}
bound=${MUTANTS_BOUND:-300}
tree=$dir/tree
export CARGO_TARGET_DIR=$dir/target CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=0
# A test that spins is ended and named after so many seconds.
export BELLWIRE_TEST_STUCK=${BELLWIRE_TEST_STUCK:-60}

# `git apply` in the copy is not to look for a repository around it.
export GIT_CEILING_DIRECTORIES=$dir

mkdir -p "$tree" "$dir/logs"
git ls-files -z | while IFS= read -r -d '' file; do
  if [ -f "$file" ] && ! cmp -s "$file" "$tree/$file"; then
    mkdir -p "$tree/$(dirname "$file")" && cp "$file" "$tree/$file"
  fi
done
# What is no longer in this tree is not to be in the copy.
(cd "$tree" && find . -type f | cut -c3-) | while IFS= read -r file; do
  [ -f "$root/$file" ] || rm -f "$tree/$file"
done

target_of() { if [ "$1" = lib ]; then echo --lib; else echo "--test $1"; fi; }

# Builds what a test is in; its words are in $dir/logs/build.
build() {
  # shellcheck disable=SC2046
  (cd "$tree" && cargo test --quiet --all-features $(target_of "$1") --no-run) >"$dir/logs/build" 2>&1
}

# Runs one test; $2 is its name.
run() {
  # shellcheck disable=SC2046
  (cd "$tree" && timeout -k 5 "$bound" cargo test --quiet --all-features $(target_of "$1") "$2") \
    >"$dir/logs/run" 2>&1
}

# Whether a test fails by its name. Says what it did instead.
fails() {
  run "$1" "$2"
  local status=$?
  if [ $status = 124 ] || [ $status = 137 ]; then
    echo "hangs without a name: $1 $2"
    return 1
  elif [ $status = 0 ]; then
    echo "passes: $1 $2"
    return 1
  fi
  # `name ... FAILED`, or what a bound of the tests says of it.
  grep -qE "$2( - should panic)? (\.\.\. FAILED|hangs: )|^ +([a-z_:]+::)?$2$" "$dir/logs/run" && return 0
  echo "ends by something else: $1 $2"
  return 1
}

# Whether a test is there, and passes in the copy as it is. Each is run once for this.
declare -A passes
check_clean() {
  local key="$1 $2"
  if [ -z "${passes[$key]:-}" ]; then
    passes[$key]=no
    build "$1" && run "$1" "$2" && grep -qE "test result: ok\. [1-9]" "$dir/logs/run" &&
      passes[$key]=yes
  fi
  [ "${passes[$key]}" = yes ]
}

judge() {
  local patch=$1 target test
  while read -r target test; do
    check_clean "$target" "$test" || { echo "stale: $target $test does not pass without it"; return; }
  done < <(sed -n 's/^fails: //p' "$patch")
  (cd "$tree" && git apply -p1 "$patch") 2>"$dir/logs/apply" || { echo "stale: it does not apply"; return; }
  local verdict=caught
  while read -r target test; do
    if ! build "$target"; then
      verdict="stale: it does not compile"
      break
    fi
    why=$(fails "$target" "$test") || { verdict="survived: $why"; break; }
  done < <(sed -n 's/^fails: //p' "$patch")
  (cd "$tree" && git apply -R -p1 "$patch") || exit 2
  echo "$verdict"
}

if [ $# = 0 ]; then
  set -- $(cd scripts/mutants && ls -- *.patch | sed 's/\.patch$//')
fi
bad=0
for name in "$@"; do
  began=$SECONDS
  judge "$root/scripts/mutants/$name.patch" >"$dir/logs/verdict"
  verdict=$(cat "$dir/logs/verdict")
  printf '%-36s %4ds  %s\n' "$name" $((SECONDS - began)) "$verdict"
  [ "$verdict" = caught ] || bad=$((bad + 1))
done
echo "$(($# - bad)) of $# caught"
[ $bad = 0 ]
