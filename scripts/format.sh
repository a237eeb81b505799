#!/bin/sh
# Lay out every source with clang-format; with --check, only say what differs.
set -eu
cd "$(dirname "$0")/.."

case ${1:-} in
'') mode=-i ;;
--check) mode='--dry-run --Werror' ;;
*)
    echo "usage: scripts/format.sh [--check]" >&2
    exit 2
    ;;
esac

# shellcheck disable=SC2086 # words are meant
find include src tools bench examples tests \
    \( -name '*.[ch]' -o -name '*.cc' -o -name '*.[ch]pp' \) -print0 2>/dev/null |
    xargs -0 -r clang-format $mode
