#!/bin/sh
# Runs each fuzzer for a bounded time on its corpus.
#
#   scripts/fuzz.sh BUILD_FOLDER
#
#   BITKV_FUZZ_SECONDS  of each target (60)
#   BITKV_FUZZ_TARGETS  which (all)
#   BITKV_FUZZER        which the build is for: libfuzzer (the default) or afl
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

run_libfuzzer() # run_libfuzzer NAME
{
    "$build/tests/fuzz/fuzz_$1" -max_total_time="$seconds" -timeout=20 -max_len=16384 \
        -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix="$build/found/$1-" \
        "$build/corpus/$1" "$source/tests/fuzz/corpus/$1" > "$build/found/$1.log" 2>&1
}

# Goes on where it left off; what crashes or hangs makes it fail.
run_afl() # run_afl NAME
{
    AFL_AUTORESUME=1 AFL_NO_UI=1 AFL_SKIP_CPUFREQ=1 AFL_NO_AFFINITY=1 \
        AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 \
        afl-fuzz -V "$seconds" -t 20000 -m none -i "$source/tests/fuzz/corpus/$1" \
        -o "$build/corpus/$1" -- "$build/tests/fuzz/fuzz_$1" > "$build/found/$1.log" 2>&1
    stats=$build/corpus/$1/default/fuzzer_stats
    grep -E '^(execs_done|execs_per_sec|saved_)' "$stats"
    ! grep -Eq '^saved_(crashes|hangs) *: [1-9]' "$stats"
}

status=0
for name in $targets; do
    mkdir -p "$build/corpus/$name" "$build/found"
    echo "fuzz.$name: $seconds s"
    if ! "run_${BITKV_FUZZER:-libfuzzer}" "$name"; then
        tail -n 60 "$build/found/$name.log"
        status=1
    fi
    grep -E 'number_of_executed|average_exec|new_units_added' "$build/found/$name.log" || true
done
exit $status
