#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The command line itself: help, usage errors, statistics and check."""
import os
import subprocess
import sys

from toolcase import DAMAGE, FAILURE, USAGE, ToolCase, main

COMMANDS = ["put", "get", "del", "exists", "count", "load", "dump", "scan", "stats", "check",
            "compact", "backup", "restore-check", "repartition"]

STATISTICS = [
    "puts_total", "gets_total", "gets_miss_total", "deletes_total", "compactions_total",
    "syncs_total", "checkpoints_total", "errors_total", "bytes_written", "keys", "live_bytes",
    "dead_bytes", "disk_bytes", "segments", "segments_open", "open_files", "keydir_bytes",
    "unsynced_bytes", "fragmentation", "recovery", "partitions", "io_mode", "io_mode_reason",
    "backend", "backend_reason",
    "writes_refused", "compaction_bytes_read", "compaction_bytes_written", "expired_total",
]
RECOVERY = [
    "duration_ns", "checkpoint_keys", "hint_records", "log_records", "log_bytes", "torn_tails",
    "torn_tail_bytes", "damaged_regions", "damaged_bytes", "rejected_hints",
    "rejected_checkpoints", "removed_files",
]


class Help(ToolCase):
    def test_the_tool_lists_its_commands(self):
        text = self.out("--help").decode()
        self.assertEqual(self.out("help").decode(), text)
        for command in COMMANDS:
            self.assertIn(f"\n  {command} ", text)

    def test_each_command_has_help_that_fits_a_terminal(self):
        for command in COMMANDS:
            with self.subTest(command=command):
                text = self.out(command, "--help").decode()
                self.assertEqual(self.out("help", command).decode(), text)
                self.assertEqual(self.out(command, "-h").decode(), text)
                self.assertTrue(text.startswith(f"Usage: bitkv {command} [OPTION]... DIRECTORY"))
                self.assertIn("  -h, --help  ", text)
                self.assertIn("  -j, --json  ", text)
                self.assertLessEqual(max(len(line) for line in text.splitlines()), 80)

    def test_every_option_in_the_help_is_taken(self):
        for command in COMMANDS:
            for line in self.out(command, "--help").decode().splitlines():
                if not line.startswith("  -") and not line.startswith("      --"):
                    continue
                name = line[line.index("--"):].split()[0]
                with self.subTest(command=command, option=name):
                    # Without an argument, or behind one, help still wins over all else.
                    takes_argument = line[line.index("--"):].split("  ")[0].strip() != name
                    value = {"--partitions": ["2"], "--max-file-size": ["1M"],
                             "--io-mode": ["auto"], "--limit": ["3"],
                             "--partition": ["1"], "--ttl": ["1s"]}.get(name, ["x"]) if takes_argument else []
                    self.out(command, name, *value, "--help")

    def test_version(self):
        self.assertRegex(self.out("--version").decode(), r"^bitkv \d+\.\d+\.\d+\n$")


class WrongUsage(ToolCase):
    def test_each_mistake_is_named(self):
        for arguments, wanted in [
                ([], "Usage: bitkv COMMAND"),
                (["frobnicate"], "no command 'frobnicate'"),
                (["help", "frobnicate"], "no command 'frobnicate'"),
                (["put"], "the DIRECTORY of the database is missing"),
                (["put", self.db], "the KEY is missing"),
                (["put", self.db, "k", "v", "w"], "too many arguments: 'w'"),
                (["put", "--file", "f", self.db, "k", "v"], "both a VALUE and --file"),
                (["put", "--frob", self.db], "unknown or ambiguous option --frob"),
                (["put", "-Z", self.db], "unknown option -Z"),
                (["put", "--sync=1", self.db], "option --sync takes no argument"),
                (["put", self.db, "--file"], "option --file needs an argument"),
                (["put", "--partitions", "1025", self.db, "k", "v"], "--partitions: '1025'"),
                (["put", "--partitions", "two", self.db, "k", "v"], "--partitions: 'two'"),
                (["put", "--max-file-size", "9X", self.db, "k", "v"], "--max-file-size: '9X'"),
                (["put", "--max-file-size", "-1", self.db, "k", "v"], "--max-file-size: '-1'"),
                (["put", "--io-mode", "fast", self.db, "k", "v"], "--io-mode: 'fast'"),
                (["get", self.db], "the KEY is missing"),
                (["get", "--sync", self.db, "k"], "unknown or ambiguous option --sync"),
                (["count", self.db, "x"], "too many arguments: 'x'"),
                (["dump", "--format", "deb822", self.db], "'deb822' is not tsv or jsonl")]:
            with self.subTest(arguments=arguments):
                done = self.tool(*arguments, status=USAGE)
                self.assertIn(wanted, done.stderr.decode())
                self.assertIn("--help", done.stderr.decode())
                self.assertEqual(done.stdout, b"")

    def test_a_size_that_the_library_refuses(self):
        message = self.err("put", "--max-file-size", "1K", self.db, "k", "v", status=FAILURE)
        self.assertIn("max_file_size", message)


class Statistics(ToolCase):
    def setUp(self):
        super().setUp()
        lines = b"".join(b"key %d\tvalue %d\n" % (i, i) for i in range(1000))
        self.tool("load", "-q", "--partitions", "2", self.db, stdin=lines)

    def test_json_has_the_names_of_the_interface(self):
        document = self.json("stats", "--json", self.db)
        self.assertEqual(sorted(document), sorted(STATISTICS))
        self.assertEqual(sorted(document["recovery"]), sorted(RECOVERY))
        self.assertEqual((document["keys"], document["partitions"]), (1000, 2))

    def test_partitions_add_up(self):
        document = self.json("stats", "--json", "--partitions-detail", self.db)
        detail = document["partitions_detail"]
        self.assertEqual(len(detail), 2)
        for name in ("keys", "live_bytes", "segments"):
            self.assertEqual(sum(part[name] for part in detail), document[name], name)

    def test_the_table_is_for_people(self):
        text = self.out("stats", self.db).decode()
        self.assertIn(f"{self.db}: 2 partitions", text)
        self.assertRegex(text, r"live keys +1,000\n")
        self.assertRegex(text, r"live data +[\d.]+ (B|KiB|MiB)\n")
        wide = self.out("stats", "--partitions-detail", "--verbose", self.db).decode()
        self.assertRegex(wide, r"live keys +1,000 +[\d,]+ +[\d,]+\n")

    def test_json_passes_another_parser(self):
        for command in (["stats"], ["check"], ["count"], ["stats", "-d"]):
            text = self.out(*command, "--json", self.db)
            subprocess.run([sys.executable, "-m", "json.tool"], input=text, check=True,
                           stdout=subprocess.DEVNULL)


class Check(ToolCase):
    def setUp(self):
        super().setUp()
        lines = b"".join(b"key %d\tvalue number %d\n" % (i, i) for i in range(1000))
        self.tool("load", "-q", "--partitions", "1", self.db, stdin=lines)
        self.tool("del", self.db, "key 7")

    def data_file(self):
        """The file with the values, whatever it is called, and where value 500 is in it."""
        for root, _, names in os.walk(self.db):
            for name in names:
                path = os.path.join(root, name)
                with open(path, "rb") as file:
                    place = file.read().find(b"value number 500")
                if place >= 0:
                    return path, place
        self.fail("no file has the value")

    def test_a_sound_database(self):
        text = self.out("check", self.db).decode()
        self.assertIn("no damage", text)
        document = self.json("check", "--json", self.db)
        self.assertTrue(document["sound"])
        self.assertEqual((document["errors"], document["findings"]), (0, []))
        self.assertEqual((document["records"], document["tombstones"]), (1000, 1))

    def test_a_flipped_bit_is_found_where_it_is(self):
        path, place = self.data_file()
        with open(path, "r+b") as file:
            file.seek(place + 3)
            byte = file.read(1)[0]
            file.seek(place + 3)
            file.write(bytes([byte ^ 1]))
        document = self.json("check", "--json", self.db, status=DAMAGE)
        self.assertFalse(document["sound"])
        errors = [f for f in document["findings"] if f["severity"] == "error"]
        self.assertGreaterEqual(len(errors), 1)
        self.assertTrue(any(path.endswith(f["file"].split("/")[-1])
                            and f["offset"] <= place < f["offset"] + f["length"] for f in errors),
                        errors)
        text = self.out("check", self.db, status=DAMAGE).decode()
        self.assertIn("error: ", text)
        self.assertIn("offset ", text)

    def test_data_without_a_manifest_is_a_damaged_database(self):
        os.remove(os.path.join(self.db, "MANIFEST"))
        text = self.out("check", self.db, status=DAMAGE).decode()
        self.assertIn("error: MANIFEST: ", text)
        self.assertIn("has data in partition_0 but no MANIFEST; restore it", text)
        document = self.json("check", "--json", self.db, status=DAMAGE)
        self.assertFalse(document["sound"])
        self.assertEqual([f["file"] for f in document["findings"]], ["MANIFEST"])

    def test_a_directory_without_data_has_no_database(self):
        empty = os.path.join(self.db, "empty")
        os.makedirs(os.path.join(empty, "partition_0"))
        message = self.err("check", empty, status=FAILURE)
        self.assertIn("no database in this directory", message)

    def test_check_leaves_the_files_alone(self):
        path, _ = self.data_file()
        with open(path, "rb") as file:
            before = file.read()
        self.tool("check", self.db)
        with open(path, "rb") as file:
            self.assertEqual(file.read(), before)


if __name__ == "__main__":
    main()
