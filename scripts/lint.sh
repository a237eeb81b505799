#!/bin/sh
# Everything that can be said of the sources without running them.
#
#   scripts/lint.sh [BUILD]     a build folder with compile_commands.json
#
# A finding that is wrong is suppressed on its own line, with its reason:
# "// NOLINT(check): why", "// cppcheck-suppress id ; why".
set -u
cd "$(dirname "$0")/.." || exit 2
build=${1:-build/test}
failed=

if [ ! -f "$build/compile_commands.json" ]; then
    echo "lint: $build has no compile_commands.json; configure it first" >&2
    exit 2
fi

step() # step NAME COMMAND...
{
    name=$1
    shift
    echo "lint: $name"
    "$@" || failed="$failed $name"
}

sources() { find src tools examples -name '*.c' 2>/dev/null | sort; }

tidy()
{
    # Only what the build knows how to compile, once for each file.
    sources | while read -r file; do
        grep -q "\"file\": \".*/$file\"" "$build/compile_commands.json" && echo "$file"
    done | xargs -r -n 1 -P "$(nproc)" clang-tidy --quiet -p "$build" 2>"$build/tidy.log"
    status=$?
    # What is left are errors of clang-tidy itself; counts of warnings are not.
    grep -v ' warnings\{0,1\} generated\.$' "$build/tidy.log" | grep -E 'error|Error' >&2
    return $status
}

check()
{
    cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 --platform=unix64 \
        --enable=warning,performance,portability --max-configs=4 -j "$(nproc)" \
        --suppressions-list=.cppcheck-suppressions \
        -D__x86_64__=1 -D__LP64__=1 -D__linux__=1 -D_GNU_SOURCE=1 -I include -I src \
        src $([ -d tools ] && echo tools) examples
}

step layers scripts/check-layers.py
step bites scripts/plant-bugs.py --check
step format scripts/format.sh --check
step cppcheck check
step clang-tidy tidy

if [ -n "$failed" ]; then
    echo "lint: failed:$failed" >&2
    exit 1
fi
echo "lint: nothing to complain about"
