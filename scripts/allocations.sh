#!/usr/bin/env bash
# Lists where calls and deliveries allocate: allocations per message and the functions that made them, by
# valgrind's dhat. tests/allocations.rs has the bounds. Linux, with Python 3, a minute.
#
#   scripts/allocations.sh [BATCH]      64 messages at once by default
#
# Each figure is the difference of a longer and a shorter run of the example `hot_path`.
set -euo pipefail
cd "$(dirname "$0")/.."

batch=${1:-64}
if ! command -v valgrind > /dev/null; then
    echo "valgrind is needed: apt install valgrind, dnf install valgrind, or https://valgrind.org" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "building" >&2
hot_path=$(CARGO_PROFILE_RELEASE_DEBUG=1 cargo build --quiet --release --all-features --example hot_path \
    --message-format json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')

for what in calls deliveries; do
    for count in 6400 19200; do
        valgrind --tool=dhat --num-callers=30 --read-inline-info=yes \
            --dhat-out-file="$work/$what.$count" "$hot_path" "$what" "$batch" "$count" > "$work/log" 2>&1 ||
            { cat "$work/log" >&2; exit 2; }
    done
    python3 - "$what" "$work/$what.6400" "$work/$what.19200" << 'PYTHON'
import collections, json, re, sys

MESSAGES = 19200 - 6400
# Frames without information: of the allocator, of the standard library, and without a name.
NOISE = re.compile(r"UnknownInlinedFun|\(in |library/|^_?_?rust_")


def blocks(file):
    """Blocks and bytes by call stack, innermost function first."""
    with open(file) as text:
        profile = json.load(text)
    frames = [re.sub(r"^0x[0-9A-F]+: |::h[0-9a-f]{16}", "", frame) for frame in profile["ftbl"]]
    found = collections.defaultdict(lambda: [0, 0])
    for point in profile["pps"]:
        total = found[tuple(frames[at] for at in point["fs"])]
        total[0] += point["tbk"]
        total[1] += point["tb"]
    return found


what, short, long = sys.argv[1], blocks(sys.argv[2]), blocks(sys.argv[3])
rows = []
for stack, (count, size) in long.items():
    before = short.get(stack, (0, 0))
    count, size = count - before[0], size - before[1]
    if count / MESSAGES >= 0.005:
        rows.append((count / MESSAGES, size // count, stack))
print(f"{what}: {sum(row[0] for row in rows):.3f} allocations each")
for each, size, stack in sorted(rows, reverse=True):
    print(f"  {each:.3f} of {size} bytes on average")
    named = [frame for frame in stack if not NOISE.search(frame)]
    for frame in named[:8]:
        print(f"      {frame[:140]}")
PYTHON
done
