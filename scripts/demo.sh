#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The demonstration: first the program that checks everything it does, then a short tour of the
# command. Run by `make demo`.
#
# Usage: scripts/demo.sh [BUILD_DIRECTORY [OPTION_OF_BITKV_DEMO...]]
set -eu

build=${1:-build}
[ $# -eq 0 ] || shift
demo=$build/tools/bitkv-demo
tool=$build/tools/bitkv

for program in "$demo" "$tool"; do
    if [ ! -x "$program" ]; then
        echo "demo.sh: $program is not there; build it first (make)" >&2
        exit 2
    fi
done

"$demo" "$@"

directory=$(mktemp -d "${TMPDIR:-/tmp}/bitkv-tour.XXXXXX")
trap 'rm -rf "$directory"' EXIT
trap 'exit 130' INT TERM
db=$directory/db

# Show a command as one would type it, then run it. Long output is cut: it is a tour.
show()
{
    printf '\n$ %s\n' "$1" | sed "s|$tool|bitkv|g; s|$db|db|g"
    sh -c "$1"
}

printf '\nThe same from the shell:\n'
if apt-cache dumpavail 2>/dev/null | head -n 1 | grep -q .; then
    show "apt-cache dumpavail | $tool load $db"
    show "$tool get $db bash | head -n 4"
    show "$tool dump --keys-only --prefix python3-py $db | head -n 3"
elif [ -s /usr/share/dict/words ]; then
    show "sed 's/.*/&\t&/' /usr/share/dict/words | $tool load $db"
    show "$tool get $db zebra; echo"
fi
show "$tool put $db greeting 'hello, world'"
show "$tool get --json $db greeting"
show "$tool del $db greeting; $tool exists $db greeting || echo \"exit status \$?\""
show "$tool stats $db"
show "$tool check $db"
