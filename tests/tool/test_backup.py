#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Backups, proving them, another number of partitions, looking at segments and records."""
import os
import pty
import shutil
import signal
import subprocess

from toolcase import DAMAGE, FAILURE, OK, USAGE, ToolCase, main, tool_path


class BackupCase(ToolCase):
    def setUp(self):
        super().setUp()
        self.lines = b"".join(b"key %d\tvalue number %d %s\n" % (i, i, b"x" * 200)
                              for i in range(2000))
        self.tool("load", "-q", "--partitions", "2", "--max-file-size", "64K", self.db,
                  stdin=self.lines)
        self.target = self.path("backup")

    def damage(self, database):
        for root, _, names in os.walk(database):
            for name in sorted(names):
                path = os.path.join(root, name)
                with open(path, "rb") as file:
                    place = file.read().find(b"value number 1500")
                if place >= 0:
                    os.chmod(path, 0o600)
                    with open(path, "r+b") as file:
                        file.seek(place)
                        file.write(b"rot")
                    return
        self.fail("no file has the value")


class Backup(BackupCase):
    def test_a_copy_of_a_backup_that_lacks_something_is_told(self):
        self.tool("backup", "-q", self.db, self.target)
        self.tool("restore-check", self.target)
        for what in ("last", "cut"):
            copy = self.path(what)
            shutil.copytree(self.target, copy)
            folder = os.path.join(copy, "partition_1")
            last = max((n for n in os.listdir(folder) if n.startswith("data_")),
                       key=lambda n: int(n[5:-3]))
            path = os.path.join(folder, last)
            os.chmod(path, 0o600)
            if what == "last":
                os.remove(path)
            else:
                os.truncate(path, 64)
            self.assertIn(b"was made with", self.out("restore-check", copy, status=DAMAGE))

    def test_a_backup_has_what_the_database_has(self):
        text = self.out("backup", self.db, self.target).decode()
        self.assertRegex(text, r"files linked \(.*copied")
        self.assertEqual(self.records(self.target), self.records())
        self.assertEqual(sorted(os.listdir(self.directory)), ["backup", "db"])

    def test_it_is_replaced_by_the_next_one(self):
        self.tool("backup", "-q", self.db, self.target)
        self.tool("put", self.db, "more", "data")
        document = self.json("backup", "--json", self.db, self.target)
        self.assertGreater(document["files_linked"], 0)
        self.assertEqual(self.out("get", self.target, "more"), b"data")

    def test_nothing_is_linked_if_that_is_asked_for(self):
        document = self.json("backup", "--json", "--no-links", "--verify", self.db, self.target)
        self.assertEqual(document["files_linked"], 0)
        for root, _, names in os.walk(self.target):
            for name in names:
                self.assertEqual(os.stat(os.path.join(root, name)).st_nlink, 1)

    def test_quiet_and_in_a_pipe_there_is_no_bar(self):
        done = self.tool("backup", "--quiet", self.db, self.target)
        self.assertEqual((done.stdout, done.stderr), (b"", b""))
        self.assertEqual(self.tool("backup", self.db, self.target).stderr, b"")

    def test_refusals(self):
        self.assertIn("the TARGET is missing", self.err("backup", self.db, status=USAGE))
        self.assertIn("inside of the database",
                      self.err("backup", self.db, os.path.join(self.db, "b"), status=FAILURE))
        message = self.err("backup", self.db, self.path("none/backup"), status=FAILURE)
        self.assertIn("the parent directory of the target", message)
        self.assertIn("does not exist", message)
        self.assertNotIn("no database", message)
        os.mkdir(self.target)
        self.write("backup/notes", b"mine")
        self.assertIn("not empty", self.err("backup", self.db, self.target, status=FAILURE))
        self.assertEqual(os.listdir(self.target), ["notes"])


class RestoreCheck(BackupCase):
    def test_a_sound_backup(self):
        self.tool("backup", "-q", self.db, self.target)
        text = self.out("restore-check", self.target).decode()
        self.assertIn("no damage", text)
        self.assertRegex(text, r"opens with 2,000 keys in 2 partitions, .* of keys and values")
        document = self.json("restore-check", "--json", self.target)
        self.assertEqual((document["keys"], document["partitions"], document["sound"]),
                         (2000, 2, True))

    def test_damage_is_told(self):
        self.tool("backup", "-q", "--no-links", self.db, self.target)
        self.damage(self.target)
        self.assertIn("error: ", self.out("restore-check", self.target, status=DAMAGE).decode())
        self.out("restore-check", self.db)
        self.assertIn("damage", self.err("repartition", self.target, "3", status=FAILURE))

    def test_a_missing_file_is_told(self):
        self.tool("backup", "-q", self.db, self.target)
        os.remove(os.path.join(self.target, "partition_0", "data_1.db"))
        self.tool("restore-check", self.target, status=DAMAGE)

    def test_no_backup(self):
        self.tool("restore-check", self.path("none"), status=FAILURE)


class Repartition(BackupCase):
    def test_the_records_stay(self):
        before = self.records()
        for count in (5, 1, 1, 3):
            text = self.out("repartition", self.db, str(count)).decode()
            self.assertRegex(text, rf"{count} partition")
            self.assertEqual(self.json("stats", "--json", self.db)["partitions"], count)
        self.assertEqual(self.records(), before)
        self.assertEqual(os.listdir(self.directory), ["db"])

    def test_wrong_numbers(self):
        self.assertIn("the N is missing", self.err("repartition", self.db, status=USAGE))
        for number in ("0", "1025", "x", "-1", "3x", ""):
            self.assertIn("is not a number from 1 to 1024",
                          self.err("repartition", "--", self.db, number, status=USAGE))

    def test_an_interrupt_leaves_the_old_one(self):
        master, slave = pty.openpty()
        process = subprocess.Popen([tool_path(), "repartition", self.db, "3"], stderr=slave,
                                   stdout=subprocess.DEVNULL)
        process.send_signal(signal.SIGTERM)
        self.assertIn(process.wait(), (OK, -signal.SIGTERM))
        os.close(slave)
        os.close(master)
        self.assertEqual(len(self.records()), 2000)
        self.tool("repartition", self.db, "3")
        self.assertEqual(os.listdir(self.directory), ["db"])


class Looking(BackupCase):
    def test_scan_shows_some(self):
        self.assertEqual(len(self.out("scan", "--limit", "7", self.db).splitlines()), 7)
        self.assertEqual(len(self.out("scan", self.db).splitlines()), 2000)
        keys = self.out("scan", "--keys-only", "--prefix", "key 19", self.db).splitlines()
        self.assertEqual(len(keys), 111)
        self.assertTrue(all(key.startswith(b"key 19") and b"\t" not in key for key in keys))
        self.assertIn("--limit: '0'", self.err("scan", "--limit", "0", self.db, status=USAGE))

    def test_the_end_of_the_log_is_active(self):
        segments = self.json("stats", "--json", "--segments", self.db)["segments_detail"]
        for partition in (0, 1):
            phases = [s["phase"] for s in segments if s["partition"] == partition]
            self.assertEqual(phases, ["finished"] * (len(phases) - 1) + ["active"])

    def test_segments_add_up(self):
        document = self.json("stats", "--json", "--segments", self.db)
        segments = document["segments_detail"]
        self.assertEqual(len(segments), document["segments"])
        self.assertEqual(sum(s["live_bytes"] for s in segments), document["live_bytes"])
        self.assertEqual(sum(s["dead_bytes"] for s in segments), document["dead_bytes"])
        text = self.out("stats", "--segments", self.db).decode()
        self.assertRegex(text, r"partition +id phase +bytes +live +dead +hint\n")
        self.assertRegex(text, r"\n +1 +1 finished +6\d\.\d KiB")


if __name__ == "__main__":
    main()
