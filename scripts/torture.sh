#!/bin/sh
# The long form of every test that tortures: each part in turn, and a table of
# what was done at the end. Status 0: nothing was violated. A part that cannot
# run here (no root, no loop devices) is told as skipped, which is no pass.
#
#   scripts/torture.sh BUILD_FOLDER [PART...]     a part is named by a shell pattern
#
#   BITKV_TORTURE_MINUTES  of all parts together (60)
#   BITKV_SEED             of every part: repeats a run as far as threads allow
set -eu

# One part a line: its name, its share of the time, and its command, in which
# $S is the seconds that this comes to and $T the folder of the test programs.
#
# What a part prints stands in the log. The table takes from it the last line
# that begins with "torture: " ("torture: 12 kills, 34 operations acknowledged"),
# or else the last one with a figure; and what is called a seed.
# shellcheck disable=SC2016 # expanded when it is run
parts()
{
    part crash.sim 15 'BITKV_SIM_SECONDS=$((S > 60 ? S : 60)) $T/test_crash_sim'
    part concurrent.linear 6 'BITKV_MS=$((S * 1000)) $T/test_concurrent_linear'
    part concurrent.cut 2 'BITKV_MS=$((S * 500)) $T/test_concurrent_cut'
    part concurrent.races 3 'BITKV_SCHEDULE_MS=$((S * 66)) $T/test_concurrent_schedules_races'
    part concurrent.endings 3 'BITKV_SCHEDULE_MS=$((S * 66)) $T/test_concurrent_schedules_endings'
    part crash.sigkill 8 'BITKV_KILL_SECONDS=$S $T/test_crash_sigkill'
    part crash.shutdown 8 'BITKV_SHUTDOWN_SECONDS=$S $T/test_crash_shutdown'
    part crash.full_disk 3 'BITKV_FULL_SECONDS=$S $T/test_crash_full_disk'
    part crash.fuse 4 'BITKV_FUSE_SECONDS=$S $T/test_crash_fuse'
    part crash.soak 10 'BITKV_SOAK_SECONDS=$S $T/test_crash_soak'
    part crash.threads 2 'BITKV_MS=$((S * 150)) $T/test_crash_threads'
    part property.model 4 'for i in $(seq 1 $((S / 14 + 1))); do $T/test_property_model; done'
    part property.cq_model 3 'BITKV_MS=$((S * 1000)) $T/test_property_cq_model'
    # A sample of the runs in each turn; all of them at once take an hour and a half.
    part fault.loops 6 'end=$(($(date +%s) + S)); while :; do $T/test_fault_loops; [ $(date +%s) -lt $end ] || break; done'
    part damage.every_bit 2 'BITKV_DAMAGE_BITS=1 $T/test_damage_changes'
    part fuzz 6 'BITKV_FUZZ_SECONDS=$((S / $(ls tests/fuzz/fuzz_*.c | wc -l))) make fuzz BUILD=$BUILD'
}

if [ $# -lt 1 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
T=$(cd "$1" && pwd)/tests
BUILD=$(dirname "$T")
shift
wanted=${*:-*}
minutes=${BITKV_TORTURE_MINUTES:-60}
cd "$(dirname "$0")/.."
BITKV_SOURCE_DIR=$PWD
TMPDIR=${TMPDIR:-$T/scratch}
export T BUILD TMPDIR BITKV_SOURCE_DIR
logs=$BUILD/torture
table=$logs/summary.txt
mkdir -p "$logs" "$TMPDIR"
: >"$table"

is_wanted() # is_wanted NAME
{
    set -f # the patterns are for `case`, not for file names
    for pattern in $wanted; do
        # shellcheck disable=SC2254 # a pattern is meant
        case $1 in $pattern) set +f; return 0 ;; esac
    done
    set +f
    return 1
}

# On a terminal, one line that moves; in a pipe, nothing.
progress() # progress TEXT
{
    if [ -t 1 ]; then printf '\r\033[K%s' "$1"; fi
}

watch() # watch PID NAME SECONDS LOG
{
    [ -t 1 ] || return 0
    began=$(date +%s)
    while kill -0 "$1" 2>/dev/null; do
        last=$(tail -n 1 "$4" 2>/dev/null | tr -d '\000-\037' | cut -c 1-60)
        progress "$done_parts of $all_parts  $2  $(($(date +%s) - began)) of about $3 s  $last"
        sleep 1
    done
    progress ''
}

# The line of the log that says what was done.
figures() # figures LOG
{
    line=$(sed -n 's/^torture: //p' "$1" | tail -n 1)
    if [ -z "$line" ]; then
        line=$(grep -v '^\[\|SEED\|seed' "$1" | grep '[0-9]' | tail -n 1)
    fi
    printf '%s' "${line:--}" | tr '|' '/' | cut -c 1-100
}

violations() # violations STATUS LOG
{
    count=$(grep -c '^\[  FAILED  \] [a-z].*[^:]$' "$2" || true)
    if [ "$1" -eq 0 ]; then
        echo 0
    elif [ "$count" -gt 1 ]; then
        echo $((count / 2)) # cmocka names each test when it fails and at the end
    else
        echo 1
    fi
}

seed_of() # seed_of LOG
{
    grep -Eio '[a-z_]*seed[= ]+[0-9a-fx]+' "$1" | grep -Eo '[0-9a-fx]+$' | tail -n 1 || true
}

status=0
run() # run NAME SECONDS COMMAND
{
    log=$logs/$1.log
    began=$(date +%s)
    S=$2 sh -c "set -e; $3" >"$log" 2>&1 &
    pid=$!
    watch "$pid" "$1" "$2" "$log"
    code=0
    wait "$pid" || code=$?
    seconds=$(($(date +%s) - began))
    case $code in
    0) result=$(violations 0 "$log") ;;
    77) result=skipped ;;
    *)
        result=$(violations "$code" "$log")
        status=1
        ;;
    esac
    seed=$(seed_of "$log")
    what=$(figures "$log")
    printf '%s|%s|%s|%s|%s\n' "$1" "$seconds" "$result" "${seed:--}" "$what" >>"$table"
    if [ -t 1 ]; then
        progress "$(printf '%-20s %5s s  %-8s %s' "$1" "$seconds" "$result" "$what")"
        echo
    fi
    if [ "$code" -ne 0 ] && [ "$code" -ne 77 ]; then
        echo "torture: $1 failed with status $code; the end of $log:" >&2
        tail -n 40 "$log" >&2
    fi
}

summary()
{
    awk -F '|' '
        BEGIN { form = "%-20s %6s  %-10s  %-20s  %s\n"
                printf form, "part", "s", "violations", "seed", "what was run" }
        { printf form, $1, $2, $3, $4, $5; seconds += $2
          if ($3 == "skipped") skipped++; else violations += $3 }
        END { printf "%d parts in %d s: %d violations, %d skipped\n", NR, seconds, violations, skipped }
    ' "$table"
}

# Once to add up the shares, and once to run.
shares=0 all_parts=0 done_parts=0
part() { if is_wanted "$1"; then shares=$((shares + $2)) all_parts=$((all_parts + 1)); fi; }
parts
if [ "$all_parts" -eq 0 ]; then
    echo "torture: no part is called $wanted" >&2
    exit 2
fi
part()
{
    if is_wanted "$1"; then
        run "$1" $((minutes * 60 * $2 / shares)) "$3"
        done_parts=$((done_parts + 1))
    fi
}
trap 'kill "$pid" 2>/dev/null; summary; exit 130' INT TERM
parts
summary
exit $status
