#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The manual pages are complete and well-formed."""
import os
import re
import shutil
import subprocess
import unittest

from toolcase import ToolCase, main

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def read(*parts):
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as file:
        return file.read()


class Manual(ToolCase):
    def test_every_command_and_option_is_described(self):
        page = read("man", "bitkv.1")
        listing = self.out("--help").decode()
        commands = re.findall(r"^  ([a-z-]+) +\S", listing, re.MULTILINE)
        self.assertGreater(len(commands), 8)
        for command in commands:
            self.assertIn(f"\n.Cm {command}\n", page)
            if command == "help":
                continue
            self.assertIn(f"\n.Ss {command}\n", page)
            for name in re.findall(r"^ .*?--([a-z0-9-]+)", self.out("help", command).decode(),
                                   re.MULTILINE):
                with self.subTest(command=command, option=name):
                    self.assertRegex(page, rf"Fl -{name}\b")

    def test_every_function_option_and_error_of_the_header_is_described(self):
        header = read("include", "bitkv.h")
        page = read("man", "bitkv.3")
        functions = set(re.findall(r"BITKV_API [\w ]+?\*?(bitkv_\w+)\(", header))
        functions = {name for name in functions if not name.endswith("_init_sized")}
        for name in functions:
            self.assertIn(f"\n.Fn {name} ", page)
        for structure in ("bitkv_options", "bitkv_statistics", "bitkv_op", "bitkv_completion",
                          "bitkv_backup_options", "bitkv_backup_report",
                          "bitkv_repartition_options", "bitkv_segment_info"):
            members = re.search(rf"typedef struct {structure} \{{(.*?)\n\}} {structure};", header,
                                re.DOTALL).group(1)
            for name in re.findall(r"^    [\w ]+[ *](\w+);", members, re.MULTILINE):
                if name != "struct_size":
                    with self.subTest(structure=structure, member=name):
                        self.assertRegex(page, rf"Va (?:[\w ]+ \*?)?{name}\b")
        for name in re.findall(r"^    X\((ERR_\w+),", header, re.MULTILINE):
            self.assertIn(f"\n.It Dv BITKV_{name}\n", page)

    @unittest.skipUnless(shutil.which("groff"), "groff is not installed")
    def test_groff_has_nothing_to_complain_about(self):
        for page in ("bitkv.1", "bitkv.3"):
            done = subprocess.run(["groff", "-ww", "-mandoc", "-Tutf8", "-z",
                                   os.path.join(ROOT, "man", page)], capture_output=True,
                                  check=True)
            self.assertEqual(done.stderr, b"", page)


if __name__ == "__main__":
    main()
