#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Does the test suite bite? Plants bugs, one at a time, and sees who notices.

    scripts/plant-bugs.py [options] [NAME...]

Each bug of tests/bites/bugs.txt is planted in a copy of the sources, never in
the sources themselves. What it touches is built again, and the tests run that
should catch it; if they do not, so does the rest of the fast suite (all tests
of the library but those that repeat others with another backend). A test that
fails, crashes or takes too long has caught the bug. NAMEs choose some of the
bugs: regular expressions of their whole names.

  --build DIR       where the copy and its build live (build/bites)
  --bugs FILE       the bugs (tests/bites/bugs.txt)
  --jobs N          of the compiler and of ctest (the processors)
  --timeout S       of a test (60)
  --no-baseline     leave out the run without a bug, which comes first
  --only-expected   leave the rest of the suite out
  --check           only see whether every bug can still be planted
  --list            names and files

The format of a bug, lines of `#` between bugs being comments:

    == name
    file: src/...
    test: regular expression, of ctest names
    what a user would suffer
    ---
    the text, which occurs exactly once in the file
    +++
    what stands there instead

Exit status: 0 if every bug was caught, 1 if one survived, 2 if one could not
be planted or built, or the tests fail without any.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ["CMakeLists.txt", "cmake", "docs", "include", "src", "tools", "examples", "tests"]
# Not of the fast suite: other programs, and tests once more, another way.
LEFT_OUT = (r"^(project|tool|example|cpp|soak)\.|"
            r"\.(threads|eperm|enosys|enomem|memlock|every_bit)$")


class Trouble(Exception):
    """Nothing that a test has found: the run ends with status 2."""


class Bug:
    def __init__(self, name, file, test, about, old, new):
        self.name, self.file, self.test = name, file, test
        self.about, self.old, self.new = about, old, new

    def planted(self, text):
        count = text.count(self.old)
        if count != 1:
            raise Trouble(f"{self.name}: its text is {count} times in {self.file}, not once")
        return text.replace(self.old, self.new)


def read_bugs(path):
    bugs = []
    # What is before the first is a comment.
    for block in re.split(r"^== ", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
        match = re.fullmatch(r"(\S+)\nfile: (\S+)\ntest: ([^\n]+)\n((?:[^\n]+\n)+)---\n"
                             r"(.*?)\+\+\+\n(.*)",
                             block, re.S)
        if match is None:
            raise Trouble(f"{path}: cannot read the bug {block.splitlines()[0]!r}")
        name, file, test, about, old, new = match.groups()
        new = re.sub(r"(^#.*\n|^\n)*\Z", "", re.sub(r"\n(# ---.*\n)(#.*\n|\n)*\Z", "\n", new))
        if not re.fullmatch(r"\s*", new):
            new = new.rstrip("\n") + "\n"
        # A text that goes on behind its last line is one without the line's end.
        old, new = old.rstrip("\n"), new.rstrip("\n")
        if old == new or any(bug.name == name for bug in bugs):
            raise Trouble(f"{path}: {name} changes nothing, or is there twice")
        bugs.append(Bug(name, file, re.compile(test), " ".join(about.split()), old, new))
    return bugs


class Copy:
    """Sources that may be spoiled, and what is built from them."""

    def __init__(self, args):
        self.args = args
        self.tree = args.build / "tree"
        self.build = args.build / "build"
        self.targets = {}

    def renew(self):
        """Brings the copy up to date, touching only what differs."""
        wanted = set()
        for name in COPIED:
            top = ROOT / name
            for path in [top] if top.is_file() else sorted(top.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    wanted.add(path.relative_to(ROOT))
        for path in wanted:
            to = self.tree / path
            if not to.is_file() or to.read_bytes() != (ROOT / path).read_bytes():
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, to)
        for path in list(self.tree.rglob("*")):
            if path.is_file() and path.relative_to(self.tree) not in wanted:
                path.unlink()

    def run(self, *command, errors=subprocess.STDOUT):
        return subprocess.run([str(word) for word in command], cwd=self.build, text=True,
                              errors="replace", stdout=subprocess.PIPE, stderr=errors, check=False)

    def configure(self):
        self.build.mkdir(parents=True, exist_ok=True)
        done = self.run("cmake", "-G", "Ninja", "-S", self.tree, "-B", self.build,
                        "-DCMAKE_BUILD_TYPE=", "-DCMAKE_C_FLAGS=-O1", "-DBITKV_BUILD_BENCH=OFF",
                        "-DBITKV_BUILD_TOOLS=OFF", "-DBITKV_BUILD_EXAMPLES=OFF",
                        "-DBITKV_INSTALL=OFF", f"-DBITKV_TEST_TIMEOUT={self.args.timeout}")
        if done.returncode != 0:
            raise Trouble("the copy cannot be configured:\n" + done.stdout)
        # What it says of programs that are not built yet comes in the middle of lines.
        listed = self.run("ctest", "-N", "-E", LEFT_OUT, errors=subprocess.DEVNULL).stdout
        for name in re.findall(r"^\s*Test +#\d+: (\S+)", listed, re.M):
            folder, _, rest = name.partition(".")
            self.targets[name] = f"replay_{rest}" if folder == "fuzz" else f"test_{folder}_{rest}"
        if not self.targets:
            raise Trouble("the copy has no tests:\n" + listed)

    def make(self, tests):
        done = self.run("ninja", "-j", self.args.jobs, *[self.targets[test] for test in tests])
        if done.returncode != 0:
            raise Trouble("cannot be built:\n" + done.stdout[-3000:])

    def test(self, tests):
        """Returns the first that fails, and what it says of that; or None."""
        junit = self.build / "bites.xml"
        junit.unlink(missing_ok=True)
        names = "^(" + "|".join(re.escape(test) for test in tests) + ")$"
        self.run("ctest", "-j", self.args.jobs, "-R", names, "--stop-on-failure",
                 "--output-junit", junit)
        for case in ElementTree.parse(junit).getroot().iter("testcase"):
            if case.get("status") == "fail":
                return case.get("name"), reason(case)
        return None


def reason(case):
    """The test function that failed, or how the program ended."""
    output = case.findtext("system-out") or ""
    functions = re.findall(r"^\[  FAILED  \] (?:\S+: )?(\w+)\s*$", output, re.M)
    failure = case.find("failure")
    message = failure.get("message", "") if failure is not None else ""
    if functions:
        return functions[0]
    started = re.findall(r"^\[ RUN      \] (\w+)", output, re.M)
    how = "too slow" if "Timeout" in message else "dies"
    return f"{how} in {started[-1]}" if started else how


def expected(bug, copy):
    tests = [test for test in copy.targets if bug.test.search(test)]
    if not tests:
        raise Trouble(f"{bug.name}: no test is called {bug.test.pattern}")
    return tests


def ask(bug, copy, args):
    """Who catches the planted bug: (test, reason, whether it was expected), or None."""
    first = expected(bug, copy)
    groups = [first]
    if not args.only_expected:
        groups.append([test for test in copy.targets if test not in first])
    for number, tests in enumerate(groups):
        copy.make(tests)
        caught = copy.test(tests)
        if caught is not None:
            return caught + (number == 0,)
    return None


def try_bug(bug, copy, args):
    path = copy.tree / bug.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(bug.planted(sound), encoding="utf-8")
    try:
        return ask(bug, copy, args)
    except Trouble as trouble:
        raise Trouble(f"{bug.name}: {trouble}") from None
    finally:
        path.write_text(sound, encoding="utf-8")


def run(bugs, args):
    copy = Copy(args)
    copy.renew()
    copy.configure()
    tests = sorted({test for bug in bugs for test in expected(bug, copy)})
    if not args.no_baseline:
        copy.make(tests)
        failed = copy.test(tests)
        if failed is not None:
            raise Trouble(f"{failed[0]} fails without a bug: {failed[1]}")
    width = max(len(bug.name) for bug in bugs)
    survivors = []
    begun = time.monotonic()
    for bug in bugs:
        since = time.monotonic()
        caught = try_bug(bug, copy, args)
        seconds = time.monotonic() - since
        if caught is None:
            survivors.append(bug)
            verdict = "SURVIVED"
        else:
            test, why, foreseen = caught
            verdict = f"{test}: {why}" + ("" if foreseen else "  (not foreseen)")
        print(f"{bug.name:{width}}  {seconds:4.0f} s  {verdict}", flush=True)
    print(f"\n{len(bugs)} bugs planted, {len(bugs) - len(survivors)} caught, "
          f"{len(survivors)} survived; {time.monotonic() - begun:.0f} s")
    for bug in survivors:
        print(f"  {bug.name}: {bug.about}")
    return 1 if survivors else 0


def choose(bugs, names):
    if not names:
        return bugs
    chosen = [bug for bug in bugs if any(re.fullmatch(name, bug.name) for name in names)]
    if not chosen:
        raise Trouble("no bug is called so; --list shows them")
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "bites")
    parser.add_argument("--bugs", type=Path, default=ROOT / "tests" / "bites" / "bugs.txt")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--timeout", type=int, default=60)
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--only-expected", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    args.build = args.build.resolve()
    try:
        bugs = choose(read_bugs(args.bugs), args.names)
        for bug in bugs: # all of them before the first is built
            bug.planted((ROOT / bug.file).read_text(encoding="utf-8"))
        if args.list:
            for bug in bugs:
                print(f"{bug.name}  {bug.file}\n    {bug.about}")
            return 0
        return 0 if args.check else run(bugs, args)
    except Trouble as trouble:
        print(f"plant-bugs: {trouble}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
