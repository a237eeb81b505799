#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How the command behaves on a terminal, in a pipe, on a full device and under signals."""
import array
import errno
import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time

from toolcase import FAILURE, OK, ToolCase, main, tool_path


def read_terminal(master, seconds=60):
    """All that is written to a terminal until its last user has gone."""
    chunks = []
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            data = os.read(master, 65536)
        except OSError as error:
            if error.errno == errno.EIO:
                break
            raise
        if not data:
            break
        chunks.append(data)
    return b"".join(chunks)


def write_and_wait(pipe, data):
    """Write to the tool's standard input, and wait until it has read and handled all of it."""
    pipe.write(data)
    pipe.flush()
    waiting = array.array("i", [1])
    limit = time.monotonic() + 60
    while waiting[0] > 0 and time.monotonic() < limit:
        time.sleep(0.02)
        fcntl.ioctl(pipe.fileno(), termios.FIONREAD, waiting)
    time.sleep(0.5)


class Terminal(ToolCase):
    def run_with_slow_input(self, *options):
        """Load through a pipe that takes its time, standard error on a terminal."""
        master, slave = pty.openpty()
        process = subprocess.Popen([tool_path(), "load", *options, self.db], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=slave)
        os.close(slave)
        for start in range(0, 5000, 500):
            process.stdin.write(b"".join(b"key %d\tvalue\n" % i
                                         for i in range(start, start + 500)))
            process.stdin.flush()
            time.sleep(0.05)
        process.stdin.close()
        screen = read_terminal(master)
        os.close(master)
        summary = process.stdout.read()
        process.stdout.close()
        self.assertEqual(process.wait(), OK)
        return screen, summary

    def test_progress_is_shown_on_a_terminal_and_taken_away(self):
        screen, summary = self.run_with_slow_input()
        self.assertIn(b"loading", screen)
        self.assertIn(b"records", screen)
        self.assertIn(b"/s", screen)
        self.assertTrue(screen.endswith(b" \r"), screen[-80:])
        self.assertNotIn(b"\n", screen)
        self.assertIn(b"5,000 records loaded", summary)

    def test_quiet_shows_none(self):
        screen, summary = self.run_with_slow_input("--quiet")
        self.assertEqual((screen, summary), (b"", b""))

    def test_a_file_has_a_percentage_and_a_time_left(self):
        path = self.path("input")
        with open(path, "wb") as file:
            for i in range(1_500_000):
                file.write(b"key %d\t%d\n" % (i % 1000, i))
        master, slave = pty.openpty()
        process = subprocess.Popen([tool_path(), "load", self.db, path], stdout=subprocess.DEVNULL,
                                   stderr=slave)
        os.close(slave)
        screen = read_terminal(master)
        os.close(master)
        self.assertEqual(process.wait(), OK)
        for part in (b"%", b"[", b"ETA", b"MB/s"):
            self.assertIn(part, screen)

    def test_pipes_get_no_progress(self):
        lines = b"".join(b"key %d\tvalue\n" % i for i in range(200_000))
        done = self.tool("load", self.db, stdin=lines)
        self.assertEqual(done.stderr, b"")
        self.assertEqual(done.stdout.count(b"\n"), 1)

    def test_a_value_on_a_terminal_ends_with_a_newline(self):
        self.tool("put", self.db, "k", "value")
        master, slave = pty.openpty()
        process = subprocess.Popen([tool_path(), "get", self.db, "k"], stdout=slave)
        os.close(slave)
        screen = read_terminal(master)
        os.close(master)
        self.assertEqual(process.wait(), OK)
        self.assertEqual(screen, b"value\r\n")


class BrokenOutput(ToolCase):
    def setUp(self):
        super().setUp()
        lines = b"".join(b"key %d\t%s\n" % (i, b"v" * 100) for i in range(50_000))
        self.tool("load", "-q", self.db, stdin=lines)

    def test_a_reader_that_goes_away_ends_dump_quietly(self):
        process = subprocess.Popen([tool_path(), "dump", self.db], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
        message = process.stderr.read()
        process.stderr.close()
        self.assertEqual(message, b"")
        self.assertEqual(process.wait(), -signal.SIGPIPE)
        self.assertEqual(self.out("count", self.db), b"50000\n")

    def test_a_full_device_is_an_error(self):
        for command in (["dump", self.db], ["get", self.db, "key 1"], ["stats", self.db],
                        ["count", self.db], ["stats", "--json", self.db], ["check", self.db],
                        ["load", self.db, os.devnull], ["--help"], ["help", "get"],
                        ["get", "--help"], ["--version"]):
            with self.subTest(command=command), open("/dev/full", "wb") as full:
                done = subprocess.run([tool_path(), *command], stdout=full, check=False,
                                      stderr=subprocess.PIPE, timeout=60)
                self.assertEqual(done.returncode, FAILURE)
                self.assertIn(b"No space left on device", done.stderr)

    def test_a_full_device_by_name(self):
        self.assertIn("/dev/full: cannot write: No space left",
                      self.err("dump", "--output", "/dev/full", self.db, status=FAILURE))

    def test_an_output_in_a_missing_directory(self):
        path = self.path("missing/file")
        self.assertIn(f"bitkv: get: {path}: No such file",
                      self.err("get", "-o", path, self.db, "key 1", status=FAILURE))


class Signals(ToolCase):
    def test_an_interrupted_load_keeps_what_it_has_and_says_how_much(self):
        process = subprocess.Popen([tool_path(), "load", self.db], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        write_and_wait(process.stdin, b"".join(b"key %d\tvalue\n" % i for i in range(1000)))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.assertEqual(out, b"")
        self.assertIn(b"stopped: 1,000 records loaded", err)
        self.assertEqual(self.out("count", self.db), b"1000\n")

    def test_a_killed_load_keeps_all_that_it_had_read(self):
        process = subprocess.Popen([tool_path(), "load", self.db], stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL)
        write_and_wait(process.stdin, b"".join(b"key %d\tvalue\n" % i for i in range(1000)))
        process.kill()
        process.stdin.close()
        process.wait()
        # Reading needs no repair, and what a crash leaves behind is no damage.
        self.assertEqual(self.out("count", self.db), b"1000\n")
        self.assertEqual(self.out("dump", self.db).count(b"\n"), 1000)
        self.tool("check", self.db)
        self.tool("stats", "--repair", self.db)
        self.assertEqual(self.json("stats", "-j", self.db)["recovery"]["log_records"], 0)
        self.assertEqual(self.out("get", self.db, "key 999"), b"value")

    def test_a_reader_that_has_gone_is_no_error(self):
        """More than fits the buffers, and less; also where SIGPIPE was ignored."""
        lines = b"".join(b"key %d\t%s\n" % (i, b"v" * 100) for i in range(30_000))
        self.tool("load", "-q", "-P", "2", "-m", "64K", self.db, stdin=lines)
        for command in (["stats"], ["stats", "--json", "--segments", "-d"], ["count"], ["check"],
                        ["dump"], ["scan", "--keys-only"], ["watch"], ["expire-stats"],
                        ["get", "--keys-from", "-"], ["help"], ["stats", "--help"]):
            with self.subTest(command=command):
                read_end, write_end = os.pipe()
                os.close(read_end)
                name = [] if command[0] == "help" else [self.db]
                done = subprocess.run([tool_path(), *command, *name], stdout=write_end,
                                      input=b"key 1\nkey 2\n", stderr=subprocess.PIPE,
                                      timeout=60, check=False)
                os.close(write_end)
                self.assertEqual((done.returncode, done.stderr), (-signal.SIGPIPE, b""))

    def test_a_database_in_use_is_told_with_a_hint(self):
        process = subprocess.Popen([tool_path(), "load", self.db], stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL)
        write_and_wait(process.stdin, b"a\t1\n")
        try:
            for command in (["put", self.db, "k", "v"], ["del", self.db, "k"],
                            ["compact", self.db], ["repartition", self.db, "3"],
                            ["check", self.db], ["restore-check", self.db]):
                message = self.err(*command, status=FAILURE)
                self.assertIn("in use by another opener", message)
                self.assertRegex(message, r"hint: (process %d \(bitkv\) has|end the process)"
                                 % process.pid)
                self.assertIn("beside it work get, ", message)
                self.assertNotIn("bitkv_stats", message)
            message = self.err("stats", "--repair", self.db, status=FAILURE)
            self.assertIn("without --repair, `bitkv stats` reads beside it", message)
            self.tool("stats", self.db)
        finally:
            process.stdin.close()
            self.assertEqual(process.wait(), OK)


if __name__ == "__main__":
    main()
