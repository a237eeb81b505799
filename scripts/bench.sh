#!/bin/sh
# Measure BitKV beside other embedded stores: builds bitkv-bench with the peers
# that are installed and runs it. The tables go to stdout, progress to stderr
# if that is a terminal, every figure to build/bench.json.
#
#   scripts/bench.sh [options of bitkv-bench]       --help lists them
#
#   scripts/bench.sh --quick
#   scripts/bench.sh --markdown docs/benchmarks.md
#
# BUILD (build) is where it is built and where the databases are: put it on the
# file system that is to be measured. JOBS and WERROR are as in the Makefile.
set -eu

cd "$(dirname "$0")/.."
build=${BUILD:-build}
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}

scripts/setup.sh bench >&2

generator=
if command -v ninja >/dev/null; then
    generator="-G Ninja"
fi
mkdir -p "$build/bench"
log=$build/bench/build.log
# shellcheck disable=SC2086
if ! { cmake $generator -S . -B "$build/bench" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
           -DBITKV_BUILD_TESTS=OFF -DBITKV_BUILD_TOOLS=OFF -DBITKV_BUILD_EXAMPLES=OFF \
           -DBITKV_BUILD_BENCH=ON -DBITKV_WERROR="${WERROR:-OFF}" &&
       cmake --build "$build/bench" -j "$jobs" --target bitkv-bench; } >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi

# Options behind these win, so that a caller may choose another file.
exec "$build/bench/bench/bitkv-bench" --directory "$build/bench" --json "$build/bench.json" "$@"
