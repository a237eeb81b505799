#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""README.md tells the truth where a machine can tell: its program compiles and
runs as printed, its snippets compile, its links lead somewhere, and its table
of options is complete.

Environment: as test_install.py.
"""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("BITKV_SOURCE_DIR", Path(__file__).parents[2]))
BUILD = Path(os.environ["BITKV_BINARY_DIR"])
CMAKE = os.environ.get("BITKV_CMAKE", "cmake")
CC = os.environ.get("BITKV_CC", "cc")
CXX = os.environ.get("BITKV_CXX", "")  # empty: none for C++20

README = (ROOT / "README.md").read_text(encoding="utf-8")
HEADER = (ROOT / "include/bitkv.h").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.M | re.S)


def blocks(language):
    return [text for kind, text in BLOCKS if kind == language]


class Program(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        prefix = Path(cls.folder.name, "prefix")
        subprocess.run([CMAKE, "--install", BUILD, "--prefix", prefix], check=True,
                       stdout=subprocess.DEVNULL)
        libdir = next(prefix.rglob("libbitkv.a")).parent
        cls.bin = prefix / "bin"
        cls.environment = {**os.environ, "PKG_CONFIG_PATH": str(libdir / "pkgconfig"),
                           "LD_LIBRARY_PATH": str(libdir),
                           "PATH": f"{cls.bin}:{os.environ['PATH']}"}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def shell(self, commands):
        """Run in a fresh folder; what it prints."""
        with tempfile.TemporaryDirectory(dir=self.folder.name) as folder:
            for name, text in self.files.items():
                Path(folder, name).write_text(text)
            result = subprocess.run(["sh", "-ec", commands], cwd=folder, capture_output=True,
                                    text=True, env=self.environment)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    files = {}

    def test_the_first_program_compiles_and_runs_as_printed(self):
        program, = [text for text in blocks("c") if "int main(" in text]
        self.assertLessEqual(len([l for l in program.splitlines() if l.strip()]), 20)
        commands, = [text for text in blocks("sh") if "cc app.c" in text]
        install, *rest = commands.splitlines()
        self.assertIn("make install", install)
        self.files = {"app.c": program}
        self.assertIn(self.shell("\n".join(rest)), blocks("text"))

    @unittest.skipUnless(CXX, "no compiler for C++20")
    def test_the_program_in_cpp_compiles_and_runs_as_printed(self):
        program, = [text for text in blocks("cpp") if "int main(" in text]
        snippets = [text for text in blocks("cpp") if text != program]
        program += "".join(f"\nbitcask::task<void> snippet_{i}()\n{{\n{text}}}\n"
                           for i, text in enumerate(snippets))
        self.files = {"app.cpp": program}
        command, = re.findall(r"`(c\+\+ [^`]*)`", README)
        command = command.replace("c++ ", f"'{CXX}' -Wall -Wextra -Wpedantic -Werror ", 1)
        self.assertEqual(self.shell(f"{command}\n./a.out"), "Found: Alice\n")

    def test_the_commands_run_as_printed(self):
        if not (self.bin / "bitkv").exists():
            self.skipTest("built without the tools")
        tour, = [text for text in blocks("sh") if "bitkv put" in text]
        again, = [text for text in blocks("sh") if "bitkv dump" in text]
        # A package catalogue as far as these commands can tell.
        catalogue = self.bin / "apt-cache"
        catalogue.write_text("#!/bin/sh\nprintf 'Package: a\\nVersion: 1\\n\\n'\n")
        catalogue.chmod(0o755)
        out = self.shell(f"{tour}\nmv my.db old.db\n{again}\nbitkv get new.db greeting")
        self.assertEqual(out.count("hello, world"), 2)
        self.assertIn("no damage", out)

    def test_the_first_program_and_the_snippets_compile_without_a_warning(self):
        for number, text in enumerate(blocks("c")):
            source = text
            if "int main(" not in text:
                parameter = "void" if "bitkv *db;" in text else "bitkv *db"
                source = ("#include <bitkv.h>\n#include <inttypes.h>\n#include <stdio.h>\n"
                          f"int snippet({parameter});\nint snippet({parameter})\n{{\n{text}\n"
                          "return 0;\n}\n")
            with self.subTest(number=number):
                subprocess.run([CC, "-std=c17", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
                                "-Wno-unused-variable", "-Wno-unused-but-set-variable",
                                f"-I{ROOT}/include", "-fsyntax-only", "-x", "c", "-"],
                               input=source, text=True, check=True)


class Text(unittest.TestCase):
    def test_links_lead_somewhere(self):
        headings = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-")
                    for h in re.findall(r"^#+ (.*)$", README, flags=re.M)}
        targets = re.findall(r"\]\(([^)]+)\)", README)
        self.assertTrue(targets)
        broken = [t for t in targets if "://" not in t and
                  (t[1:] not in headings if t.startswith("#") else not (ROOT / t).exists())]
        self.assertEqual(broken, [])

    def test_the_table_of_options_is_complete(self):
        body = re.search(r"typedef struct bitkv_options \{(.*?)\} bitkv_options;", HEADER,
                         flags=re.S).group(1)
        fields = set(re.findall(r"(\w+)(?:\[\d+\])?;", re.sub(r"/\*.*?\*/", "", body, flags=re.S)))
        table = re.search(r"^\| option \| default.*?(?=\n\n)", README, flags=re.M | re.S).group(0)
        named = set()
        for row in table.splitlines()[2:]:
            named |= set(re.findall(r"`(\w+)`", row.split("|")[1]))
        self.assertEqual(named, fields - {"struct_size", "reserved"})

    def test_every_name_of_the_library_exists(self):
        named = set(re.findall(r"\b(?:bitkv_|BITKV_)\w+[a-zA-Z]\b", README))
        cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
        unknown = sorted(n for n in named if n not in HEADER and n not in cmake and
                         n.replace("BITKV_", "") not in HEADER)
        self.assertEqual(unknown, [])

    def test_every_function_is_in_the_tour(self):
        code = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)
        functions = set(re.findall(r"^BITKV_API\b[^;{]*?\b(bitkv_\w+)\s*\(", code, flags=re.M))
        functions = {f.replace("_init_sized", "_init") for f in functions}  # macros of that name
        self.assertEqual({f for f in functions if not re.search(rf"\b{f}\b", README)}, set())

    def test_the_messages_of_the_troubleshooting_are_those_of_the_library(self):
        for message in re.findall(r'^### "(.*)"$', README, flags=re.M):
            self.assertIn(f'"{message}"', HEADER)


if __name__ == "__main__":
    unittest.main()
