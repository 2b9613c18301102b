#!/bin/sh
# What many topics in Redis cost: memory of Redis and of a server, and the time to start. Linux; needs
# redis-server, 7 or later.
#
#   scripts/topics.sh [TOPICS]      100,000 by default
set -eu
cd "$(dirname "$0")/.."
exec cargo run --quiet --release --features redis --example shared_topics -- "$@"
