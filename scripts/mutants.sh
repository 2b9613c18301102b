#!/usr/bin/env bash
# Planted bugs: applies each patch of scripts/mutants/ to a copy of this tree, and runs the tests that
# have to fail for it.
#
#   scripts/mutants.sh [NAME...]      all of them by default; NAME is a patch, with or without ".patch"
#
# The copy and what is built of it are in target/mutants, or where MUTANTS_DIR says: this tree is only
# read. One patch is tried at a time. A patch is
#   caught     if each test that it names fails, by its name: a hang counts only if a test ends it;
#   survived   if one of them passes, or runs into the bound of this script (MUTANTS_BOUND, seconds);
#   stale      if it does not apply, does not compile, or names a test that is not there, or that
#              fails without it.
# What the last run of each patch printed is in target/mutants/logs/NAME.
# Exits with 1 if any survived or is stale.
set -uo pipefail
cd "$(dirname "$0")/.."

root=$PWD
dir=${MUTANTS_DIR:-$root/target/mutants}
bound=${MUTANTS_BOUND:-300}
tree=$dir/tree
logs=$dir/logs
export CARGO_TARGET_DIR=$dir/target CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=0
# A test that makes no progress for this many seconds is ended and named.
export BELLWIRE_TEST_STUCK=${BELLWIRE_TEST_STUCK:-60}

# `git apply` in the copy must not look for a repository around it.
export GIT_CEILING_DIRECTORIES=$dir

mkdir -p "$tree" "$logs"
git ls-files -z | while IFS= read -r -d '' file; do
  if [ -f "$file" ] && ! cmp -s "$file" "$tree/$file"; then
    mkdir -p "$tree/$(dirname "$file")" && cp "$file" "$tree/$file"
  fi
done
# Files that are no longer in this tree must not be in the copy.
(cd "$tree" && find . -type f | cut -c3-) | while IFS= read -r file; do
  [ -f "$root/$file" ] || rm -f "$tree/$file"
done

target_of() { if [ "$1" = lib ]; then echo --lib; else echo "--test $1"; fi; }

# The tests that patches name, one for each line: the file and the name.
named_by() { sed -n 's/^fails: //p' "$@"; }

# Builds the test binary $2, within ten minutes. Its output goes to the log $1.
build() {
  # shellcheck disable=SC2046
  (cd "$tree" && timeout -k 5 600 cargo test --quiet --all-features $(target_of "$2") --no-run) \
    >>"$1" 2>&1
}

# Runs the test $3 of the binary $2, within the bound.
run() {
  # shellcheck disable=SC2046
  (cd "$tree" && timeout -k 5 "$bound" cargo test --quiet --all-features $(target_of "$2") "$3") \
    >>"$1" 2>&1
}

# Whether a test fails by its name. Otherwise prints what it did instead.
fails() {
  run "$@"
  local status=$?
  if [ $status = 124 ] || [ $status = 137 ]; then
    echo "hangs without a name: $2 $3"
    return 1
  elif [ $status = 0 ]; then
    echo "passes: $2 $3"
    return 1
  fi
  # `name ... FAILED`, or the message of the test kit's time bound.
  grep -qE "$3( - should panic)? (\.\.\. FAILED|hangs: )|^ +([a-z_:]+::)?$3$" "$1" && return 0
  echo "ends by something else: $2 $3"
  return 1
}

# Runs each named test once in the unchanged copy. Records those that exist and pass.
declare -A passes=()
try_without_a_patch() {
  local target test log=$logs/clean
  while read -r target test; do
    : >"$log"
    build "$log" "$target" && run "$log" "$target" "$test" &&
      grep -qE "test result: ok\. [1-9]" "$log" && passes["$target $test"]=yes
  done < <(named_by "$@" | sort -u)
}

# Tries one patch; sets `verdict`.
judge() {
  local patch=$1 log=$2 target test why
  : >"$log"
  while read -r target test; do
    if [ -z "${passes["$target $test"]:-}" ]; then
      verdict="stale: it does not pass without the patch: $target $test"
      return
    fi
  done < <(named_by "$patch")
  if ! (cd "$tree" && git apply -p1 "$patch") >>"$log" 2>&1; then
    verdict="stale: it does not apply"
    return
  fi
  verdict=caught
  while read -r target test; do
    if ! build "$log" "$target"; then
      verdict="stale: it does not compile"
      break
    fi
    why=$(fails "$log" "$target" "$test") || { verdict="survived: $why"; break; }
  done < <(named_by "$patch")
  (cd "$tree" && git apply -R -p1 "$patch") || exit 2
}

if [ $# = 0 ]; then
  set -- scripts/mutants/*.patch
fi
patches=()
for name in "$@"; do
  name=$(basename "$name" .patch)
  patch=$root/scripts/mutants/$name.patch
  [ -f "$patch" ] || { echo "there is no patch $name" >&2; exit 2; }
  patches+=("$patch")
done
try_without_a_patch "${patches[@]}"
echo "${#passes[@]} tests pass without a patch, ${SECONDS}s"
bad=()
for patch in "${patches[@]}"; do
  name=$(basename "$patch" .patch)
  began=$SECONDS
  judge "$patch" "$logs/$name"
  printf '%-36s %4ds  %s (%s)\n' "$name" $((SECONDS - began)) "$verdict" \
    "$(named_by "$patch" | paste -sd, | sed 's/,/, /g')"
  [ "$verdict" = caught ] || bad+=("$name")
done
echo "$((${#patches[@]} - ${#bad[@]})) of ${#patches[@]} caught in $((SECONDS / 60)) min ${bad[*]:+(all but: ${bad[*]})}"
[ ${#bad[@]} = 0 ]
