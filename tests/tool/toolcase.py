# SPDX-License-Identifier: MIT
"""What the tests of the command share: a fresh directory, and a way to run the tool.

Each test script takes the path of the tool as its first argument or in BITKV_TOOL.
"""
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

OK, NOT_FOUND, USAGE, FAILURE, DAMAGE = 0, 1, 2, 3, 4


def tool_path():
    return os.path.abspath(os.environ["BITKV_TOOL"])


class ToolCase(unittest.TestCase):
    maxDiff = 4000

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="bitkv-tool-test.")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.db = self.path("db")

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, data):
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def tool(self, *arguments, stdin=b"", status=OK):
        """Run the tool, demand an exit status, return the finished process."""
        done = subprocess.run([tool_path(), *arguments], input=stdin, capture_output=True,
                              timeout=120, check=False)
        self.assertEqual(done.returncode, status,
                         f"{arguments}\n{done.stdout[:1000]}\n{done.stderr[:2000]}")
        return done

    def out(self, *arguments, stdin=b"", status=OK):
        return self.tool(*arguments, stdin=stdin, status=status).stdout

    def err(self, *arguments, stdin=b"", status=OK):
        return self.tool(*arguments, stdin=stdin, status=status).stderr.decode()

    def json(self, *arguments, stdin=b"", status=OK):
        return json.loads(self.out(*arguments, stdin=stdin, status=status))

    def records(self, db=None):
        """All live records, as the jsonl dump has them, bytes to bytes."""
        def field(record, name):
            if name in record:
                return record[name].encode()
            return base64.b64decode(record[name + "_base64"], validate=True)

        lines = self.out("dump", "--format", "jsonl", db or self.db).splitlines()
        parsed = [json.loads(line) for line in lines]
        return {field(record, "key"): field(record, "value") for record in parsed}


def main():
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        os.environ["BITKV_TOOL"] = sys.argv.pop(1)
    if "BITKV_TOOL" not in os.environ:
        sys.exit("usage: BITKV_TOOL=path-of-bitkv " + sys.argv[0])
    unittest.main()
