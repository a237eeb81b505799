#!/usr/bin/env python3
"""Branches and MC/DC of the library that the tests have reached.

    scripts/coverage.py BUILD [--threshold PERCENT] [--list] [FOLDER...]

BUILD was configured with -DBITKV_COVERAGE=ON, and ctest has run there. Prints a table of files, and with
--list each branch that was not reached and each condition that was not shown
to decide alone. With --threshold, ends with 1 if a folder has a smaller part
of its branches reached.

A branch is one outcome of one condition in the source: `if (a && b)` has four.
What a header holds is counted once, and reached if it was reached in any file
that includes it. MC/DC counts conditions of decisions with at least two: one is
covered if two runs show that it alone changes what the decision comes to.
"""
import argparse
import collections
import glob
import json
import os
import shutil
import subprocess
import sys

FOLDERS = ["src/log", "src/keydir", "src/partition"]


def tool(name):
    """The newest installed one: profiles are only read by their own version."""
    found = [name + suffix for suffix in ("-19", "-18", "") if shutil.which(name + suffix)]
    if not found:
        sys.exit(f"coverage: {name} is missing; scripts/setup.sh coverage installs it")
    return found[0]


def export(build):
    raw = glob.glob(os.path.join(build, "profiles", "*.profraw"))
    if not raw:
        sys.exit(f"coverage: no profiles in {build}/profiles; have the tests run?")
    merged = os.path.join(build, "tests.profdata")
    subprocess.run([tool("llvm-profdata"), "merge", "-sparse", "-o", merged, *raw], check=True)
    # Profiles are by function, whichever program ran it: the library suffices for
    # its own functions, and the unit tests' programs have those of headers. Schedules
    # run a variant of the library: what has points in it is another function there.
    library = [os.path.join(build, "src", "libbitkv.so"), *programs(build, "test_unit_*")]
    variants = [library] + [[p] for p in programs(build, "test_concurrent_schedules_*")]
    return [function for objects in variants for function in functions_of(merged, objects)]


def programs(build, pattern):
    found = glob.glob(os.path.join(build, "tests", pattern))
    return [program for program in sorted(found) if os.access(program, os.X_OK)]


def functions_of(profile, objects):
    command = [tool("llvm-cov"), "export", "-format=text", "-instr-profile=" + profile, objects[0]]
    for program in objects[1:]:
        command += ["-object", program]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(text)["data"][0]["functions"]


class File:
    def __init__(self):
        self.branches = collections.defaultdict(lambda: [0, 0])  # place: times true, false
        self.conditions = {}  # (place of the decision, index): shown to decide


EXPANSION = 1  # the kind of a region that is a macro's use


def place_of(function, file_id, line, column):
    """Where in the function's own file: of what comes from a macro, its use
    first."""
    place = (line, column)
    while file_id != 0:
        use = next(r for r in function["regions"] if r[7] == EXPANSION and r[6] == file_id)
        place = (use[0], use[1], *place)
        file_id = use[5]
    return place


def read(functions, root):
    files = collections.defaultdict(File)
    for function in functions:
        name = os.path.relpath(os.path.realpath(function["filenames"][0]), root)
        file = files[name]
        for line, column, _, _, true, false, file_id, *_ in function["branches"]:
            taken = file.branches[place_of(function, file_id, line, column)]
            taken[0] += true
            taken[1] += false
        # A decision's record doesn't say which macro it comes from; the order of
        # a function's records is the same wherever a header's is compiled.
        own = function["name"].rpartition(":")[2]
        for number, record in enumerate(function.get("mcdc_records", [])):
            for index, shown in enumerate(record[-1]):
                place = (record[0], own, number, index)
                file.conditions[place] = file.conditions.get(place, False) or shown
    return files


class Count:
    def __init__(self):
        self.reached = self.all = self.shown = self.conditions = 0

    def add(self, file):
        for taken in file.branches.values():
            self.all += 2
            self.reached += sum(1 for count in taken if count > 0)
        self.conditions += len(file.conditions)
        self.shown += sum(file.conditions.values())

    def row(self, name):
        return (f"{name:34} {self.reached:6} of {self.all:5} {percent(self.reached, self.all)}"
                f" {self.shown:8} of {self.conditions:5} {percent(self.shown, self.conditions)}")


def percent(part, whole):
    """Rounded down: 100.0 is all."""
    return f"{part * 1000 // whole / 10:6.1f}" if whole else "   -  "


def missing(name, file):
    for place, taken in sorted(file.branches.items()):
        never = [word for word, count in zip(("true", "false"), taken) if count == 0]
        if never:
            yield f"{name}:{place[0]}:{place[1]}: never {' or '.join(never)}"
    for (line, function, _, index), shown in sorted(file.conditions.items()):
        if not shown:
            yield f"{name}:{line}: {function}: condition {index + 1} is not shown to decide"


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].strip())
    parser.add_argument("build")
    parser.add_argument("folders", nargs="*", default=FOLDERS)
    parser.add_argument("--threshold", type=float, default=0)
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    root = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))
    files = read(export(args.build), root)
    below = []
    print(f"{'':34} {'branches':>22} {'MC/DC':>24}")
    for folder in args.folders:
        total = Count()
        for name in sorted(name for name in files if os.path.dirname(name) == folder):
            count = Count()
            count.add(files[name])
            total.add(files[name])
            if count.all > 0:
                print(count.row(name))
        print(total.row(folder) + "\n")
        if total.reached * 100 < args.threshold * total.all:
            below.append(folder)
    if args.list:
        for name in sorted(files):
            if os.path.dirname(name) in args.folders:
                for line in missing(name, files[name]):
                    print(line)
    if below:
        sys.exit(f"coverage: less than {args.threshold:g} % of branches in {', '.join(below)}")


if __name__ == "__main__":
    main()
