#!/bin/sh
# Runs each fuzzer for a bounded time on its corpus.
#
#   scripts/fuzz.sh BUILD_FOLDER
#
#   BITKV_FUZZ_SECONDS  of each target (60)
#   BITKV_FUZZ_TARGETS  which (all)
set -eu

build=$1
source=$(cd "$(dirname "$0")/.." && pwd)
seconds=${BITKV_FUZZ_SECONDS:-60}
targets=${BITKV_FUZZ_TARGETS:-}
if [ -z "$targets" ]; then
    for file in "$source"/tests/fuzz/fuzz_*.c; do
        name=${file##*/fuzz_}
        targets="$targets ${name%.c}"
    done
fi

status=0
for name in $targets; do
    mkdir -p "$build/corpus/$name" "$build/found"
    echo "fuzz.$name: $seconds s"
    if ! "$build/tests/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=20 -max_len=16384 \
        -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$build/found/$name-" "$build/corpus/$name" \
        "$source/tests/fuzz/corpus/$name" > "$build/found/$name.log" 2>&1; then
        tail -n 60 "$build/found/$name.log"
        status=1
    fi
    grep -E 'number_of_executed|average_exec|new_units_added' "$build/found/$name.log" || true
done
exit $status
