#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bitkv compact: space, summary, progress, wrong usage."""
import glob
import json
import os
import pty
import re
import signal
import subprocess
import time

from test_terminal import read_terminal
from toolcase import FAILURE, OK, USAGE, ToolCase, main, tool_path


class Compact(ToolCase):
    def setUp(self):
        super().setUp()
        lines = b"".join(b"key %d\t%s %d\n" % (i % 1000, b"v" * 500, i) for i in range(20_000))
        self.tool("load", "-q", "-m", "64K", "-P", "2", self.db, stdin=lines)
        self.tool("del", "-q", self.db, *(f"key {i}" for i in range(100)))
        self.before = self.records()

    def size(self):
        files = glob.glob(os.path.join(self.db, "partition_*", "data_*.db"))
        return sum(os.stat(file).st_blocks * 512 for file in files)

    def test_it_gives_space_back_and_says_how_much(self):
        size = self.size()
        done = self.tool("compact", "-m", "64K", self.db)
        self.assertEqual(done.stderr, b"")
        self.assertRegex(done.stdout.decode(),
                         r"^\S+: [\d.]+ \w+ before, [\d.]+ \w+ after \([\d.]+ \w+\)\n$")
        self.assertLess(self.size(), size)
        self.assertLess(self.size(), 2_000_000)
        self.assertEqual(self.records(), self.before)
        self.assertIn(b"no damage", self.out("check", self.db))

    def test_one_partition(self):
        document = self.json("compact", "--json", "--partition", "1", self.db)
        self.assertEqual(sorted(document), ["bytes_after", "bytes_before", "complete", "duration_ns"])
        self.assertTrue(document["complete"])
        parts = self.json("stats", "--json", "-d", self.db)["partitions_detail"]
        self.assertLess(parts[1]["dead_bytes"], 5000)
        self.assertEqual(self.records(), self.before)
        for options in ([], ["--json"]):
            done = self.tool("compact", *options, "--partition", "99", self.db, status=FAILURE)
            self.assertIn("there is no partition 99, there are 2", done.stderr.decode())
            self.assertNotIn("before", done.stderr.decode())
            self.assertEqual(done.stdout, b"")
        self.tool("compact", "--partition", "x", self.db, status=USAGE)

    def test_an_interrupt_is_no_success(self):
        lines = b"".join(b"key %d\t%s %d\n" % (i % 30000, b"w" * 900, i) for i in range(60_000))
        self.tool("load", "-q", self.db, stdin=lines)
        for options in ([], ["--json"]):
            with subprocess.Popen([tool_path(), "compact", *options, self.db],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                # It is in the middle when it has the database open for writing.
                limit = time.monotonic() + 30
                while process.poll() is None and time.monotonic() < limit:
                    if glob.glob(f"/proc/{process.pid}/fd/*") and self.has_open(process.pid):
                        break
                process.send_signal(signal.SIGINT)
                out, err = (text.decode() for text in process.communicate())
            if process.returncode == OK:
                continue  # it was too quick
            self.assertEqual(process.returncode, -signal.SIGINT)
            if out:
                self.assertFalse(json.loads(out)["complete"])
            if err:
                self.assertRegex(err, r"^bitkv: compact: stopped after .* before, .* after; ")
        self.assertIn(b"no damage", self.out("check", self.db))

    def has_open(self, pid):
        for link in glob.glob(f"/proc/{pid}/fd/*"):
            try:
                if os.readlink(link).startswith(self.db + "/"):
                    return True
            except OSError:
                pass
        return False

    def test_quiet_says_nothing(self):
        done = self.tool("compact", "-q", self.db)
        self.assertEqual((done.stdout, done.stderr), (b"", b""))

    def test_progress_is_shown_on_a_terminal(self):
        lines = b"".join(b"key %d\t%s %d\n" % (i % 30000, b"w" * 900, i) for i in range(200_000))
        self.tool("load", "-q", self.db, stdin=lines)
        master, slave = pty.openpty()
        with subprocess.Popen([tool_path(), "compact", self.db], stdout=subprocess.PIPE,
                              stderr=slave) as process:
            os.close(slave)
            screen = read_terminal(master)
            os.close(master)
            summary = process.stdout.read().decode()
            self.assertEqual(process.wait(), OK)
        self.assertTrue(re.search(r"before, .* after", summary), summary)
        if screen:  # it may have been too quick to be shown
            self.assertIn(b"compacting", screen)

    def test_what_is_no_database_is_left_alone(self):
        message = self.err("compact", self.path("none"), status=FAILURE)
        self.assertIn("check the path", message)
        self.assertNotIn("--create", message)
        self.assertFalse(os.path.exists(self.path("none")))

    def test_stats_has_the_counters(self):
        document = self.json("stats", "--json", self.db)
        for name in ("compactions_total", "compaction_bytes_read", "compaction_bytes_written",
                     "expired_total"):
            self.assertEqual(document[name], 0)


if __name__ == "__main__":
    main()
