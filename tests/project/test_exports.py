#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The shared library exports the public functions and nothing else, and the
public header compiles alone, as C and as C++, without a warning.

Environment: BITKV_SHARED, the library; BITKV_CC, the C compiler;
BITKV_INSTRUMENTED, ON in builds with a sanitizer or for coverage.
"""

import os
import re
import shutil
import subprocess
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("BITKV_SOURCE_DIR", Path(__file__).parents[2]))
HEADER = (ROOT / "include/bitkv.h").read_text(encoding="utf-8")
LIBRARY = os.environ["BITKV_SHARED"]
VERSION_NODE = "BITKV_0.1"

USE = """
#include <bitkv.h>
int use(bitkv **db)
{
    bitkv_options options;
    bitkv_options_init(&options);
    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    int status = bitkv_open(db, "x", &options);
    return status != BITKV_OK ? status : bitkv_stats(*db, BITKV_ALL_PARTITIONS, &statistics);
}
"""


def output(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def declared():
    code = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)
    return sorted(re.findall(r"^BITKV_API\b[^;{]*?\b(bitkv_\w+)\s*\(", code, flags=re.M))


class Exports(unittest.TestCase):
    def test_exports_are_exactly_the_functions_of_the_header(self):
        exported = []
        for line in output("nm", "-D", "--defined-only", LIBRARY).splitlines():
            kind, name = line.split()[-2:]
            if kind == "A":
                self.assertEqual(name, VERSION_NODE)
                continue
            self.assertEqual(kind, "T", f"{name} is no function")
            name, _, node = name.partition("@@")
            self.assertEqual(node, VERSION_NODE, f"{name} has no default version")
            exported.append(name)
        self.assertEqual(sorted(exported), declared())
        self.assertGreater(len(exported), 20)

    def test_the_map_names_exactly_the_functions_of_the_header(self):
        text = (ROOT / "src/libbitkv.map").read_text(encoding="utf-8")
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        names = re.search(r"global:(.*?)local:", text, flags=re.S).group(1)
        self.assertEqual(sorted(names.replace(";", " ").split()), declared())

    def test_the_library_is_known_by_its_soname(self):
        dynamic = output("readelf", "-dW", LIBRARY)
        self.assertIn("Library soname: [libbitkv.so.0]", dynamic)

    def test_schedule_points_are_none(self):
        self.assertNotIn("bkv_schedule", output("nm", LIBRARY))

    @unittest.skipIf(os.environ.get("BITKV_INSTRUMENTED") == "ON",
                     "a sanitizer brings libraries of its own")
    def test_the_library_needs_libc_and_liburing_only(self):
        dynamic = output("readelf", "-dW", LIBRARY)
        needed = re.findall(r"Shared library: \[([^\]]+)\]", dynamic)
        allowed = re.compile(r"(libc|libpthread|liburing|ld-linux[-\w]*)\.so\.\d+")
        self.assertEqual([name for name in needed if not allowed.fullmatch(name)], [])


class Header(unittest.TestCase):
    def compiles(self, compiler, language, standard, *more):
        subprocess.run(
            [compiler, "-x", language, f"-std={standard}", "-pedantic-errors", "-Wall", "-Wextra",
             "-Wundef", "-Wshadow", "-Werror", *more, "-fsyntax-only", f"-I{ROOT}/include", "-"],
            input=USE, text=True, check=True)

    def test_the_header_compiles_as_strict_c(self):
        compilers = {os.environ.get("BITKV_CC", "cc"), "gcc", "clang"}
        for compiler in sorted(filter(shutil.which, compilers)):
            for standard in ["c99", "c11", "c17"]:
                for more in [[], ["-DBITKV_STATIC"], ["-Wstrict-prototypes"]]:
                    with self.subTest(compiler=compiler, standard=standard, more=more):
                        self.compiles(compiler, "c", standard, *more)

    def test_the_header_compiles_as_cxx(self):
        compilers = list(filter(shutil.which, ["g++", "clang++"]))
        if not compilers:
            self.skipTest("no C++ compiler")
        for compiler in compilers:
            for standard in ["c++17", "c++20"]:
                with self.subTest(compiler=compiler, standard=standard):
                    self.compiles(compiler, "c++", standard)


if __name__ == "__main__":
    unittest.main()
