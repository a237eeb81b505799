#!/bin/sh
# Install what a purpose needs on Debian and its relatives, from a bare
# machine on: no compiler, no cmake, no package lists. What is there already
# is not asked for, and if nothing is missing the network is not touched.
#
#   scripts/setup.sh [build|demo|test|torture|bench|memcheck|fuzz|coverage|lint]
set -eu

purpose=${1:-test}
packages=

need() # need PACKAGE TEST...: PACKAGE is missing unless TEST succeeds
{
    package=$1
    shift
    case " $packages " in *" $package "*) return 0 ;; esac
    "$@" >/dev/null 2>&1 || packages="$packages $package"
}

have() { command -v "$1"; }
have_pc() { have pkg-config && pkg-config --exists "$1"; }
have_header() { have cc && echo "#include <$1>" | cc -E -x c - ; }
have_cxx_header() { have c++ && echo "#include <$1>" | c++ -E -x c++ - ; }
have_python() { have python3 && python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))'; }

# "3.25.1" is at least "3.20".
have_cmake()
{
    version=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
    [ -n "$version" ] && [ "$(printf '%s\n3.20\n' "$version" | sort -V | head -n 1)" = 3.20 ]
}

have_profile_runtime()
{
    echo "int main(void) { return 0; }" |
        clang-19 -fprofile-instr-generate -x c - -o /dev/null
}

have_compiler() { have cc && have c++ && have make && have_header stdio.h; }

# The library needs the compiler, cmake and liburing; the tools read JSON with
# jansson.
need_build()
{
    need build-essential have_compiler
    need cmake have_cmake
    need pkg-config have pkg-config
    need liburing-dev have_pc liburing
    need libjansson-dev have_pc jansson
    # Without it, make does: wanted only where something is installed anyway.
    [ -z "$packages" ] || need ninja-build have ninja
}

need_test()
{
    need_build
    need ninja-build have ninja
    need libcmocka-dev have_pc cmocka
    need libsodium-dev have_pc libsodium
    need libuv1-dev have_pc libuv # for an example
    need python3 have_python
    need wamerican test -s /usr/share/dict/words # the demo's tests read it
    need libfuse3-dev have_pc fuse3 # a file system that fails
    # Those that are shut down only root can mount.
    [ "$(id -u)" -ne 0 ] || need xfsprogs test -x /usr/sbin/mkfs.xfs
    [ "$(id -u)" -ne 0 ] || need e2fsprogs test -x /usr/sbin/mkfs.ext4
}

case $purpose in
build) need_build ;;
demo) need_build ;;
test) need_test ;;
torture)
    need_test
    need clang have clang # for the fuzzers
    ;;
bench)
    need_build
    need python3 have_python
    need libtkrzw-dev have_cxx_header tkrzw_dbm_hash.h
    need libkyotocabinet-dev have_cxx_header kchashdb.h
    need liblmdb-dev have_header lmdb.h
    need libleveldb-dev have_cxx_header leveldb/db.h
    need librocksdb-dev have_cxx_header rocksdb/db.h
    need fio have fio
    ;;
memcheck)
    need_test
    need valgrind have valgrind
    ;;
fuzz)
    need_test
    need clang have clang # Debian's brings libFuzzer
    need afl++ have afl-fuzz
    ;;
coverage)
    need_test
    need clang-19 have clang-19 # MC/DC, which Debian's default clang lacks
    need llvm-19 have llvm-cov-19
    need libclang-rt-19-dev have_profile_runtime
    ;;
lint)
    need_test
    need clang-format have clang-format
    need clang-tidy have clang-tidy
    need cppcheck have cppcheck
    ;;
*)
    echo "usage: scripts/setup.sh [build|demo|test|torture|bench|memcheck|fuzz|coverage|lint]" >&2
    exit 2
    ;;
esac

# --- getting rights, and apt ----------------------------------------------

as_root=
rights()
{
    [ "$(id -u)" -eq 0 ] && return 0
    command -v sudo >/dev/null || return 1
    if [ -t 0 ]; then as_root=sudo; else as_root="sudo -n"; fi
    $as_root true 2>/dev/null
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

apt()
{
    # shellcheck disable=SC2086 # words are meant
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1 </dev/null
}

updated=
update()
{
    [ -n "$updated" ] && return 0
    updated=yes
    echo "setup: fetching the package lists"
    apt update
}

install_packages()
{
    echo "setup: installing$1"
    # Lists that are absent or stale make the first try fail.
    # shellcheck disable=SC2086
    apt install --no-install-recommends $1 && return 0
    update && apt install --no-install-recommends $1
}

if [ -n "$packages" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: missing, by their Debian names:$packages" >&2
        echo "setup: there is no apt-get here; please install their like and run this again" >&2
        exit 1
    fi
    if ! rights; then
        echo "setup: missing:$packages" >&2
        echo "setup: neither root nor sudo here; please have an administrator run" >&2
        echo "           apt-get update && apt-get install$packages" >&2
        exit 1
    fi
    if ! install_packages "$packages"; then
        tail -n 30 "$log" >&2
        echo "setup: could not install:$packages" >&2
        exit 1
    fi
fi

# --- something to show: the package catalogue, or else a list of words ------

if [ "$purpose" = demo ]; then
    catalogue() { apt-cache dumpavail 2>/dev/null | head -n 1 | grep -q .; }
    if ! catalogue && [ ! -s /usr/share/dict/words ]; then
        if command -v apt-get >/dev/null && rights; then
            update || true
            catalogue || install_packages " wamerican" || true
        fi
    fi
    if ! catalogue && [ ! -s /usr/share/dict/words ]; then
        echo "setup: no package catalogue and no word list; the demo makes up its data" >&2
    fi
fi
