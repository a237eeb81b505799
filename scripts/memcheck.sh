#!/bin/sh
# Run tests under valgrind's memcheck, completion queues on the fallback backend
# (threads): rings share memory with the kernel, of which valgrind knows nothing.
# No memory may be read before it is written, or after it was given back, or lost.
#
#   scripts/memcheck.sh BUILD [regular expression of ctest tests]
#
# The default is every test of C code but those of crashes, which kill what they run, and
# those that have a reason below.
set -eu

build=${1:?usage: scripts/memcheck.sh BUILD [EXPRESSION]}
chosen=${2:-'^(unit|api|damage|regress|property|concurrent|fault)\.[^.]*$'}

# fork: a child of a test ends by _exit() with what the parent had allocated
# huge_values: gigabytes; every_bit: a minute without valgrind
# soak: so much in so many seconds; loops: its rings; backup: a process for each call
# limits: measures resident memory, of which valgrind takes some for itself
left_out='^(api\.(huge_values|fork|limits)|damage\.every_bit|property\.soak|fault\.(loops|backup))$'

log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
scratch=$build/tests/scratch
failed=
passed=0

for test in $(cd "$build" && ctest -N -R "$chosen" | sed -n 's/^ *Test *#[0-9]*: //p'); do
    if echo "$test" | grep -Eq "$left_out"; then
        continue
    fi
    program=$build/tests/test_$(echo "$test" | tr . _)
    [ -x "$program" ] || continue
    begun=$(date +%s)
    if TMPDIR=$scratch BITKV_SOURCE_DIR=$(pwd) BITKV_BACKEND=threads BITKV_MS=${BITKV_MS:-100} \
        timeout "${BITKV_MEMCHECK_SECONDS:-900}" \
        valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite \
        --show-leak-kinds=definite --track-fds=no --child-silent-after-fork=yes \
        --fair-sched=yes --suppressions=scripts/memcheck.supp --log-file="$log/$test.valgrind" \
        "$program" >"$log/$test.out" 2>&1; then
        passed=$((passed + 1))
        echo "memcheck: $test passed ($(($(date +%s) - begun)) s)"
    elif grep -q . "$log/$test.valgrind"; then
        failed="$failed $test"
        echo "memcheck: $test has errors"
        head -n 60 "$log/$test.valgrind"
    else
        failed="$failed $test"
        echo "memcheck: $test failed, though without an error of memory"
        tail -n 15 "$log/$test.out"
    fi
done

echo "memcheck: $passed passed; failed:${failed:- none}"
[ -z "$failed" ]
