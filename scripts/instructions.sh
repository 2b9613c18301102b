#!/usr/bin/env bash
# Counts the instructions of a call and of a delivery, with valgrind's callgrind, and compares them with
# docs/performance/instructions.txt. Ends with 1 if a figure is more than 2 % above what is written there.
# Linux, a few minutes.
#
#   scripts/instructions.sh             compares
#   scripts/instructions.sh --write     writes the figures down
#
# calls-1 and calls-64: `load_test` with one worker, so many callers on one connection over TCP, both ends
# in the process. deliveries-64: `hot_path`, from the publication to the stream of one subscriber, in
# batches of 64. Each figure is the difference of a longer and a shorter run, so start and end are not in
# it. The kernel's instructions are not counted.
#
# The parts are by source file. What the compiler inlines from the standard library counts to the function
# around it. `program` is what the measuring program takes itself: it is not in the total.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

ROOT=$PWD
WRITTEN=docs/performance/instructions.txt
PARTS="client server protocol topic shared tokio allocator copy std other program"
SHORT=5000
LONG=25000

case ${1-} in
'' | --write) ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
if ! command -v valgrind > /dev/null; then
    echo "valgrind is needed: apt install valgrind, dnf install valgrind, or https://valgrind.org" >&2
    exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# With line tables, callgrind knows the source of each instruction.
echo "building" >&2
programs=$(CARGO_PROFILE_RELEASE_DEBUG=1 cargo build --quiet --release --all-features \
    --example load_test --example hot_path --message-format json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
load_test=$(grep '/load_test$' <<< "$programs")
hot_path=$(grep '/hot_path$' <<< "$programs")

# count FILE COMMAND...: the instructions of a run by part, as lines of a part and a number.
count() {
    local file=$1
    shift
    if ! valgrind --tool=callgrind --callgrind-out-file="$file.out" "$@" > "$file.log" 2>&1 < /dev/null; then
        cat "$file.log" >&2
        exit 2
    fi
    awk -v root="$ROOT/" -f "$work/parts.awk" "$file.out" > "$file"
}

# Of callgrind's format: `fl` is the file of a function, `fi` and `fe` those of what is inlined into it, and
# a name stands at its first use only. The line after `calls` is what the called function takes.
cat > "$work/parts.awk" << 'AWK'
function part_of(file) {
    if (index(file, root) == 1) {
        file = substr(file, length(root) + 1)
        if (match(file, /^src\/(client|server|protocol|topic)\//)) return substr(file, 5, RLENGTH - 5)
        return file ~ /^src\// ? "shared" : "program"
    }
    if (file ~ /^\/rustc\/|\/rustlib\/|^library\/|^\/rust\/deps\//) return "std"
    if (file ~ /\/tokio-[0-9]/) return "tokio"
    if (file ~ /(^|\/)malloc\//) return "allocator"
    if (file ~ /(^|\/)string\//) return "copy"
    if (file ~ /\/(hdrhistogram|clap|indicatif)[a-z_]*-[0-9]/) return "program"
    return "other"
}
function part_of_cost(   part) {
    if (function_name ~ /^(__rust_|__rdl_|_int_|malloc|calloc|realloc|free|cfree|unlink_chunk)/) return "allocator"
    if (function_name ~ /^(__)?mem(cpy|move|cmp|set|chr)/) return "copy"
    part = part_of(file)
    return part == "std" ? part_of(home) : part
}
function name_of(text,   id) {
    id = substr(text, 1, index(text, ")"))
    if (length(text) > length(id)) names[kind, id] = substr(text, length(id) + 2)
    return names[kind, id]
}
/^(fl|fi|fe|cfi|cfl)=/ {
    kind = "file"
    name = name_of(substr($0, index($0, "=") + 1))
    if ($0 !~ /^c/) file = name
    if ($0 ~ /^fl/) home = name
    stale = 1
    next
}
/^c?fn=/ {
    kind = "function"
    name = name_of(substr($0, index($0, "=") + 1))
    if ($0 !~ /^c/) { function_name = name; stale = 1 }
    next
}
/^calls=/ { getline; next }
/^[+*0-9-]/ {
    if (stale) { part = part_of_cost(); stale = 0 }
    cost[part] += $2
}
END { for (part in cost) printf "%s %.0f\n", part, cost[part] }
AWK

# measure NAME COMMAND...: a row of instructions per message; the count of messages is the last argument.
measure() {
    local name=$1
    shift
    echo "counting $name" >&2
    count "$work/$name.short" "$@" "$SHORT"
    count "$work/$name.long" "$@" "$LONG"
    awk -v name="$name" -v parts="$PARTS" -v messages=$((LONG - SHORT)) '
        FNR == NR { short[$1] = $2; next }
        { long[$1] = $2 }
        END {
            count = split(parts, part)
            for (n = 1; n <= count; n++) {
                each = (long[part[n]] - short[part[n]]) / messages
                row = row sprintf(" %9.0f", each)
                if (part[n] != "program") total += each
            }
            printf "%-14s %9.0f%s\n", name, total, row
        }' "$work/$name.short" "$work/$name.long"
}

{
    printf "%-14s %9s" "# figure" total
    printf " %9s" $PARTS
    echo
    measure calls-1 "$load_test" --workers 1 --callers 1 --requests
    measure calls-64 "$load_test" --workers 1 --callers 64 --requests
    measure deliveries-64 "$hot_path" deliveries 64
} > "$work/figures"
cat "$work/figures"

if [ "${1-}" = --write ]; then
    mkdir -p "$(dirname "$WRITTEN")"
    # Before the file is written, because that makes the checkout dirty.
    commit=$(git describe --always --dirty --exclude "*")
    {
        echo "# Instructions per message, by scripts/instructions.sh --write"
        echo "# $(date -u +%F), $(rustc --version), commit $commit"
        cat "$work/figures"
    } > "$WRITTEN"
    exit
fi
if ! [ -f "$WRITTEN" ]; then
    echo "there is no $WRITTEN to compare with: --write makes it" >&2
    exit 2
fi
awk '
    /^#/ { next }
    FNR == NR { written[$1] = $2; next }
    !($1 in written) { printf "%s: not written down\n", $1; failed = 1; next }
    {
        change = 100 * ($2 / written[$1] - 1)
        printf "%s: %d, %+.1f %% of %d\n", $1, $2, change, written[$1]
        if (change > 2) { failed = 1; print "  more than 2 % above what is written down" }
        if (change < -2) print "  --write keeps it there"
    }
    END { exit failed }' "$WRITTEN" "$work/figures"
