#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""watch and expire-stats: every change once, from where the last call ended; what expires."""
import json
import os
import signal
import subprocess
import time

from toolcase import FAILURE, USAGE, ToolCase, main, tool_path


class Watch(ToolCase):
    def setUp(self):
        super().setUp()
        self.tool("put", "--partitions", "1", self.db, "a", "1")
        self.tool("put", self.db, "b", "two\tparts")
        self.tool("put", self.db, "a", "3")
        self.tool("del", self.db, "b")

    def test_changes_are_lines_in_order(self):
        self.assertEqual(self.out("watch", self.db),
                         b"put\ta\t1\nput\tb\ttwo\\tparts\nput\ta\t3\ndelete\tb\n")

    def test_limit_keys_only_and_codings(self):
        self.assertEqual(self.out("watch", "--limit", "2", "--keys-only", self.db),
                         b"put\ta\nput\tb\n")
        self.assertEqual(self.out("watch", "--limit", "1", "--hex", self.db), b"put\t61\t31\n")

    def test_json_has_versions_and_deadlines(self):
        lines = self.out("watch", "--json", self.db).splitlines()
        self.assertEqual(len(lines), 4)
        self.assertRegex(lines[0].decode(), r'^\{"change":"put","partition":0,"version":\d+,'
                                            r'"key":"a","value":"1"\}$')
        self.assertRegex(lines[3].decode(), r'^\{"change":"delete",.*"key":"b"\}$')

    def test_a_position_file_leads_on(self):
        position = self.path("position")
        self.assertEqual(self.out("watch", "--from", position, "--limit", "1", self.db),
                         b"put\ta\t1\n")
        self.assertEqual(self.out("watch", "--from", position, self.db).count(b"\n"), 3)
        self.assertEqual(self.out("watch", "--from", position, self.db), b"")
        self.tool("put", self.db, "c", "4")
        self.assertEqual(self.out("watch", "--from", position, self.db), b"put\tc\t4\n")

    def test_a_wrong_position_is_refused_and_left_alone(self):
        position = self.write("position", b"no position at all, but some bytes that are long enough")
        self.assertIn("no position in this database",
                      self.err("watch", "--from", position, self.db, status=FAILURE))
        with open(position, "rb") as file:
            self.assertIn(b"no position", file.read())
        other = self.path("other")
        self.tool("put", "--partitions", "1", other, "k", "v")
        position = self.path("of-other")
        self.tool("watch", "--from", position, other)
        self.assertIn("another database",
                      self.err("watch", "--from", position, self.db, status=FAILURE))
        self.tool("watch", "--limit", "0", self.db, status=USAGE)

    def test_following_waits_until_it_is_interrupted(self):
        watch = subprocess.Popen([tool_path(), "watch", "--follow", self.db],
                                 stdout=subprocess.PIPE)
        for _ in range(4):
            self.assertTrue(watch.stdout.readline())
        time.sleep(0.3)
        self.assertIsNone(watch.poll())
        watch.send_signal(signal.SIGINT)
        self.assertEqual(watch.wait(30), -signal.SIGINT)
        watch.stdout.close()

    def test_what_another_process_writes_shows(self):
        """Also in a partition that had nothing so far."""
        fresh = self.path("fresh")
        self.tool("put", "--partitions", "3", fresh, "k0", "v")
        watch = subprocess.Popen([tool_path(), "watch", "--follow", "--limit", "6", fresh],
                                 stdout=subprocess.PIPE)
        for n in range(1, 6):
            self.tool("put", fresh, f"k{n}", "v")
        lines = watch.stdout.read().split(b"\n")[:-1]
        self.assertEqual(watch.wait(30), 0)
        watch.stdout.close()
        self.assertEqual(sorted(lines), [b"put\tk%d\tv" % n for n in range(6)])

    def test_following_ends_at_the_limit(self):
        self.assertEqual(self.out("watch", "--follow", "--limit", "4", self.db).count(b"\n"), 4)


class ExpireStats(ToolCase):
    def test_keys_without_a_deadline_never_expire(self):
        self.tool("put", self.db, "key", "value")
        self.tool("put", self.db, "k2", "v2")
        figures = self.json("expire-stats", "--json", self.db)
        self.assertEqual(figures["never"], {"keys": 2, "bytes": 12})
        for name in ("minute", "hour", "day", "week", "later"):
            self.assertEqual(figures[name], {"keys": 0, "bytes": 0})
        self.assertEqual(figures["expired"], {"keys": 0, "bytes": 0})
        table = self.out("expire-stats", self.db).decode()
        self.assertRegex(table, r"(?m)^never +2 +12 B$")

    def test_keys_are_counted_by_the_time_that_is_left(self):
        now = int(time.time() * 1000)
        hour = 3_600_000
        lines = [{"key": f"k{i}", "value": "v" * 998, "deadline_ms": now + ms}
                 for i, ms in enumerate((1000, 1000, 1000, 1000, 30_000, hour // 2, 3 * hour,
                                         50 * hour, 1000 * hour))]
        self.tool("load", self.db, stdin="\n".join(map(json.dumps, lines)).encode())
        time.sleep(1.1)
        figures = self.json("expire-stats", "--json", self.db)
        for name in ("minute", "hour", "day", "week", "later"):
            self.assertEqual(figures[name], {"keys": 1, "bytes": 1000}, name)
        # Of what has expired, the bytes on disk.
        expired = figures["expired"]
        self.assertEqual(expired["keys"], 4)
        self.assertGreaterEqual(expired["bytes"], 4 * 1028)
        self.assertLess(expired["bytes"], 4 * 1100)
        self.assertRegex(self.out("expire-stats", self.db).decode(),
                         r"(?m)^expired, not yet reclaimed +4 +4\.\d KiB$")

    def test_a_missing_database_is_told(self):
        self.tool("expire-stats", self.path("none"), status=FAILURE)
        self.assertFalse(os.path.exists(self.path("none")))


if __name__ == "__main__":
    main()
