#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The sources keep to their layers, and the check that says so can be trusted:
each violation that is planted in a small tree of its own is found."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("BITKV_SOURCE_DIR", Path(__file__).parents[2]))
SCRIPT = ROOT / "scripts/check-layers.py"

# A tree without fault, with what might look like one.
CLEAN = {
    "include/bitkv.h": "#include <stdint.h>\n",
    "src/base/error.h": '#include "bitkv.h"\n',
    "src/base/error.c": '#include "base/error.h"\n#include <stdio.h>\n'
                        'int f(char *s) { return snprintf(s, 1, "printf(%d) stderr", 1); }\n'
                        "/* exit(1), and\n * abort() */ // printf(1)\n"
                        "int on_exit_code(int exit_code) { return exit_code; }\n",
    "src/io/file.h": '#include "base/error.h"\n',
    "src/log/segment.h": '#include "io/file.h"\n#include "base/error.h"\n',
    "src/keydir/keydir.h": '#include "base/error.h"\n',
    "src/partition/partition.h": '#include "log/segment.h"\n#include "keydir/keydir.h"\n',
    "src/db/db.c": '#include "partition/partition.h"\n/* #include "nowhere/x.h" */\n',
    "tools/own.h": "",
    "tools/main.c": '#include "own.h"\n#include <bitkv.h>\n#include "log/segment.h"\n'
                    '#include <stdio.h>\nint main(void) { return printf("x"); }\n',
    "bench/main.c": "#include <bitkv.h>\n#include <sys/stat.h>\n#include <rocksdb/c.h>\n",
    "bench/keydir_micro.c": '#include "keydir/keydir.h"\n#include "base/error.h"\n',
    "examples/basic.c": "#include <bitkv.h>\n",
}


def run(root):
    result = subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


class Layers(unittest.TestCase):
    def test_the_sources_keep_to_their_layers(self):
        status, output = run(ROOT)
        self.assertEqual((status, output), (0, ""))


class Check(unittest.TestCase):
    def check(self, **changes):
        """Exit status and output for the clean tree with changed files."""
        with tempfile.TemporaryDirectory() as root:
            for name, text in {**CLEAN, **changes}.items():
                file = Path(root, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            return run(root)

    def assert_caught(self, name, text, line, message):
        status, output = self.check(**{name: text})
        self.assertEqual(status, 1, output)
        self.assertEqual(len(output.splitlines()), 1, output)
        self.assertTrue(output.startswith(f"{name}:{line}: "), output)
        self.assertIn(message, output)

    def test_a_clean_tree_passes(self):
        self.assertEqual(self.check(), (0, ""))

    def test_the_parts_of_the_public_header_may_include_each_other(self):
        parts = {"include/bitkv/result.hpp": "#include <bitkv.h>\n",
                 "include/bitkv/task.hpp": "#include <bitkv/result.hpp>\n"}
        self.assertEqual(self.check(**parts), (0, ""))
        self.assert_caught("include/bitkv/task.hpp", "#include <bitkv/none.hpp>\n", 1,
                           "the standard library only")
        self.assert_caught("include/bitkv/task.hpp", "\n" * 900, 900, "more than 800 lines")

    def test_includes_that_point_up_are_caught(self):
        for name, header in [("src/base/x.c", "io/file.h"), ("src/io/x.c", "log/segment.h"),
                             ("src/log/x.c", "partition/partition.h"),
                             ("src/log/x.c", "keydir/keydir.h"),
                             ("src/keydir/x.c", "log/segment.h"),
                             ("src/keydir/x.c", "io/file.h")]:
            with self.subTest(name=name, header=header):
                self.assert_caught(name, f'\n#  include "{header}"\n', 2, "must not include")

    def test_includes_past_the_layers_are_caught(self):
        for path in ["../base/error.h", "error.h", "other/x.h"]:
            with self.subTest(path=path):
                self.assert_caught("src/io/x.c", f'#include "{path}"\n', 1, "by its layer")

    def test_a_header_that_is_not_there_is_caught(self):
        self.assert_caught("src/io/x.c", '#include "base/gone.h"\n', 1, "no such header")

    def test_a_folder_that_is_not_a_layer_is_caught(self):
        self.assert_caught("src/util/x.c", "", 1, "not a layer")

    def test_clients_that_look_inside_are_caught(self):
        for name, path in [("tools/x.c", "base/error.h"), ("tools/x.c", "partition/partition.h"),
                           ("bench/x.c", "log/segment.h"),
                           ("bench/keydir_micro.c", "log/segment.h"),
                           ("bench/x_micro.c", "base/error.h"), ("examples/x.c", "base/error.h"),
                           ("examples/x.c", "../src/base/error.h"), ("bench/x.cc", "gone.h")]:
            with self.subTest(name=name, path=path):
                self.assert_caught(name, f'#include "{path}"\n', 1, "only")

    def test_a_public_header_with_needs_is_caught(self):
        self.assert_caught("include/bitkv.h", '#include "base/error.h"\n', 1, "standard library")

    def test_a_file_that_grew_too_long_is_caught(self):
        self.assert_caught("src/io/x.c", "\n" * 801, 801, "more than 800 lines")
        self.assertEqual(self.check(**{"src/io/x.c": "\n" * 800}), (0, ""))

    def test_printing_and_ending_are_caught(self):
        for call in ['printf("x")', 'fprintf (f, "x")', "vprintf(f, a)", "puts(s)", "perror(s)",
                     "abort()", "exit(1)", "_exit(1)", "assert(x)", "f(stderr)", "dprintf(2, s)"]:
            with self.subTest(call=call):
                self.assert_caught("src/base/x.c", f'"//"; /*\n*/ {call};\n', 2, "neither prints")

    def test_a_folder_without_sources_is_an_error(self):
        with tempfile.TemporaryDirectory() as root:
            self.assertEqual(run(root)[0], 2)


if __name__ == "__main__":
    unittest.main()
