#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The demo: passes its own checks, cleans up, and fails when the database cannot be made.

Takes the path of bitkv; bitkv-demo is beside it.
"""
import os
import re
import subprocess

from toolcase import ToolCase, main, tool_path


class Demo(ToolCase):
    def demo(self, *options, status=0):
        path = os.path.join(os.path.dirname(tool_path()), "bitkv-demo")
        done = subprocess.run([path, "--directory", self.directory, *options], check=False,
                              capture_output=True, timeout=300)
        self.assertEqual(done.returncode, status, done.stdout[-2000:] + done.stderr)
        return done.stdout.decode(), done.stderr.decode()

    def test_a_run_survives_its_crashes_and_leaves_nothing_behind(self):
        text, _ = self.demo("--rounds", "2")
        self.assertRegex(text, r"All \d+ checks passed")
        self.assertEqual(len(re.findall(r"ok killed \(SIGKILL\) after", text)), 3)
        self.assertNotIn("\x1b", text)
        self.assertEqual(os.listdir(self.directory), [])

    def test_keep_leaves_a_database_that_the_tool_can_read(self):
        text, _ = self.demo("--rounds", "1", "--words", "--keep")
        found = re.search(r"The database is in (.*)\.\n", text).group(1)
        keys = int(self.out("count", found))
        listed = re.search(r"live keys +([\d,]+) ", text).group(1)
        self.assertEqual(keys, int(listed.replace(",", "")))
        self.tool("check", found)

    def test_a_directory_that_cannot_be_made(self):
        _, message = self.demo("--directory", self.path("missing"), status=1)
        self.assertIn("cannot make a directory", message)

    def test_wrong_usage(self):
        self.demo("--frobnicate", status=2)


if __name__ == "__main__":
    main()
