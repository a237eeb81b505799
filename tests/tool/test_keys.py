#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""put, get, del and exists: bytes in, the same bytes out, and the exit statuses of bitkv(1)."""
import os
import time

from toolcase import FAILURE, NOT_FOUND, USAGE, ToolCase, main

ALL_BYTES = bytes(range(256))


class Values(ToolCase):
    def test_a_value_comes_back_without_an_added_newline(self):
        self.tool("put", self.db, "k", "hello")
        self.assertEqual(self.out("get", self.db, "k"), b"hello")

    def test_newline_is_added_when_asked_for(self):
        self.tool("put", self.db, "k", "hello")
        self.assertEqual(self.out("get", "--newline", self.db, "k"), b"hello\n")

    def test_an_empty_value_is_a_value(self):
        self.tool("put", self.db, "k", "")
        self.assertEqual(self.out("get", self.db, "k"), b"")
        self.tool("exists", self.db, "k")

    def test_a_value_with_a_time_to_live_expires(self):
        self.tool("put", self.db, "stays", "1", "--ttl", "7d")
        self.tool("put", self.db, "goes", "2", "--ttl", "1ms")
        time.sleep(0.05)
        self.tool("get", self.db, "goes", status=NOT_FOUND)
        self.assertEqual(self.out("get", self.db, "stays"), b"1")
        self.assertEqual(self.out("count", self.db), b"1\n")
        for bad in ("5", "0s", "x", "3w", "-1s", "99999999999999999999d", "9999999999999999d"):
            self.assertIn("is not a time", self.err("put", self.db, "k", "v", "--ttl=" + bad,
                                                    status=USAGE))

    def test_put_replaces(self):
        self.tool("put", self.db, "k", "first")
        self.tool("put", self.db, "k", "second")
        self.assertEqual(self.out("get", self.db, "k"), b"second")

    def test_ten_megabytes_from_standard_input(self):
        data = os.urandom(10_000_000)
        self.tool("put", self.db, "big", stdin=data)
        self.assertEqual(self.out("get", self.db, "big"), data)

    def test_ten_megabytes_from_a_file_to_a_file(self):
        data = os.urandom(10_000_000)
        source = self.write("source", data)
        target = self.path("target")
        self.tool("put", "--file", source, self.db, "big")
        self.assertEqual(self.out("get", "--output", target, self.db, "big"), b"")
        with open(target, "rb") as file:
            self.assertEqual(file.read(), data)

    def test_a_dash_is_standard_input(self):
        self.tool("put", self.db, "a", "-", stdin=ALL_BYTES)
        self.tool("put", "--file", "-", self.db, "b", stdin=ALL_BYTES)
        self.assertEqual(self.out("get", self.db, "a"), ALL_BYTES)
        self.assertEqual(self.out("get", self.db, "b"), ALL_BYTES)

    def test_empty_standard_input_is_an_empty_value(self):
        self.tool("put", self.db, "k", stdin=b"")
        self.assertEqual(self.out("get", self.db, "k"), b"")

    def test_options_may_stand_behind_and_two_dashes_end_them(self):
        self.tool("put", self.db, "k", "v", "--sync")
        self.tool("put", "--", self.db, "-dash", "--value")
        self.assertEqual(self.out("get", "--", self.db, "-dash"), b"--value")

    def test_a_failed_get_leaves_the_output_file_alone(self):
        target = self.write("target", b"precious")
        self.tool("put", self.db, "k", "v")
        self.tool("get", "--output", target, self.db, "absent", status=NOT_FOUND)
        with open(target, "rb") as file:
            self.assertEqual(file.read(), b"precious")
        self.assertEqual(sorted(os.listdir(self.directory)), ["db", "target"])


class Codings(ToolCase):
    def test_hex_arguments_and_output(self):
        self.tool("put", "--hex", self.db, "00ff0a", "deadBEEF00")
        self.assertEqual(self.out("get", "--hex", self.db, "00FF0a"), b"deadbeef00")
        self.assertEqual(self.records(), {b"\x00\xff\x0a": b"\xde\xad\xbe\xef\x00"})

    def test_base64_arguments_and_output(self):
        self.tool("put", "--base64", self.db, "AP8=", "AAEC/w==")
        self.assertEqual(self.out("get", "--base64", self.db, "AP8"), b"AAEC/w==")
        self.assertEqual(self.records(), {b"\x00\xff": b"\x00\x01\x02\xff"})

    def test_escapes_in_arguments_and_output(self):
        self.tool("put", "--escape", self.db, r"a\tb\x00", r"\\ \n \r \xFF grün")
        self.assertEqual(self.out("get", "--escape", self.db, r"a\x09b\x00"),
                         r"\\ \n \r \xff grün".encode())

    def test_raw_writes_the_value_as_it_is(self):
        self.tool("put", "--file", self.write("f", ALL_BYTES), "--hex", self.db, "00")
        self.assertEqual(self.out("get", "--hex", "--raw", self.db, "00"), ALL_BYTES)

    def test_malformed_text_is_a_usage_error_that_names_the_place(self):
        for option, text, place in [("--hex", "0g", "character 2"), ("--hex", "abc", "odd"),
                                    ("--base64", "AA=A", "character 3"),
                                    ("--base64", "A", "cut short"),
                                    ("--base64", "AB==", "stray bits"),
                                    ("--base64", "AA=", "padding"),
                                    ("--escape", "a\\q", "character 2"),
                                    ("--escape", "a\\x1", "two hexadecimal digits"),
                                    ("--escape", "a\\", "backslash at the end")]:
            with self.subTest(option=option, text=text):
                self.assertIn(place, self.err("put", option, self.db, "aaaa", text, status=USAGE))
        self.assertFalse(os.path.exists(self.db))


class SeveralKeys(ToolCase):
    def setUp(self):
        super().setUp()
        for key in ("a", "b", "c"):
            self.tool("put", self.db, key, "value\tof " + key)

    def test_get_says_which_value_is_whose(self):
        self.assertEqual(self.out("get", self.db, "a", "c"), b"a\tvalue\\tof a\nc\tvalue\\tof c\n")

    def test_get_goes_on_behind_an_absent_key(self):
        done = self.tool("get", self.db, "a", "nowhere", "c", status=NOT_FOUND)
        self.assertEqual(done.stdout, b"a\tvalue\\tof a\nc\tvalue\\tof c\n")
        self.assertEqual(done.stderr, b'bitkv: get: "nowhere": not found\n')

    def test_exists_answers_for_each(self):
        self.assertEqual(self.out("exists", self.db, "a"), b"yes\n")
        self.assertEqual(self.out("exists", self.db, "x", status=NOT_FOUND), b"no\n")
        self.assertEqual(self.out("exists", self.db, "a", "x", status=NOT_FOUND),
                         b"a\tyes\nx\tno\n")
        self.assertEqual(self.out("exists", "-q", self.db, "a", "x", status=NOT_FOUND), b"")

    def test_del_removes_all_that_are_there(self):
        self.assertIn('"x": not found', self.err("del", self.db, "a", "x", "b", status=NOT_FOUND))
        self.assertEqual(self.records(), {b"c": b"value\tof c"})
        self.assertEqual(self.out("del", self.db, "c"), b"")
        self.assertEqual(self.err("del", "-q", self.db, "c", status=NOT_FOUND), "")

    def test_more_keys_than_a_batch_come_from_a_file(self):
        lines = b"".join(b"key %d\\x00\t%d\n" % (i, i) for i in range(1000))
        self.tool("load", "-q", self.db, stdin=lines)
        keys = self.out("dump", "--keys-only", "--prefix", "key ", self.db)
        self.assertEqual(sorted(self.out("get", "--keys-from", "-", self.db, stdin=keys)
                                .splitlines()), sorted(lines.splitlines()))
        self.tool("del", "--keys-from", self.write("keys", keys), self.db, "a")
        self.assertEqual(self.out("count", self.db), b"2\n")

    def test_a_bad_line_of_keys_from_is_named(self):
        keys = self.write("keys", b"a\nb\\z\n")
        self.assertIn(f"{keys}:2: column 2", self.err("get", "--keys-from", keys, self.db,
                                                      status=FAILURE))


class Json(ToolCase):
    def test_one_key_is_an_object(self):
        self.assertEqual(self.json("put", "--json", self.db, "k", "v"),
                         {"key": "k", "value_size": 1})
        self.assertEqual(self.json("get", "--json", self.db, "k"),
                         {"key": "k", "found": True, "value": "v"})
        self.assertEqual(self.json("get", "--json", self.db, "x", status=NOT_FOUND),
                         {"key": "x", "found": False})
        self.assertEqual(self.json("exists", "--json", self.db, "k"), {"key": "k", "exists": True})
        self.assertEqual(self.json("del", "--json", self.db, "k"), {"key": "k", "deleted": True})

    def test_several_keys_are_a_list(self):
        self.tool("put", self.db, "k", "v")
        self.assertEqual(self.json("get", "--json", self.db, "k", "x", status=NOT_FOUND),
                         [{"key": "k", "found": True, "value": "v"}, {"key": "x", "found": False}])
        self.assertEqual(self.json("exists", "--json", "--keys-from", "-", self.db), [])
        self.assertEqual(self.json("del", "-j", self.db, "x", "k", status=NOT_FOUND),
                         [{"key": "x", "deleted": False}, {"key": "k", "deleted": True}])

    def test_text_is_a_string_and_other_bytes_are_base64(self):
        text = '"quotes" \\ \n\t\r\x00\x1f\x7f grün 🎉'
        self.tool("put", self.db, "text", stdin=text.encode())
        self.tool("put", self.db, "bytes", stdin=b"\x00\xff")
        self.assertEqual(self.json("get", "-j", self.db, "text")["value"], text)
        self.assertEqual(self.json("get", "-j", self.db, "bytes")["value_base64"], "AP8=")

    def test_what_only_looks_like_utf8_is_base64(self):
        for data in (b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80",
                     b"\xf8\x88\x80\x80\x80"):
            with self.subTest(data=data):
                self.tool("put", self.db, "k", stdin=data)
                self.assertIn("value_base64", self.json("get", "-j", self.db, "k"))


class Limits(ToolCase):
    def test_an_empty_key_is_refused(self):
        self.assertIn("KEY is empty", self.err("put", self.db, "", "v", status=USAGE))
        self.tool("put", self.db, "k", "v")
        self.assertIn("KEY is empty", self.err("get", self.db, "", status=USAGE))

    def test_the_longest_key_fits_and_one_byte_more_does_not(self):
        self.tool("put", self.db, "k" * 65535, "v")
        self.assertEqual(self.out("get", self.db, "k" * 65535), b"v")
        self.tool("put", self.db, "k" * 65536, "v", status=FAILURE)


class Creation(ToolCase):
    def test_reading_commands_do_not_create(self):
        for command in (["get", self.db, "k"], ["exists", self.db, "k"], ["count", self.db],
                        ["dump", self.db], ["stats", self.db], ["check", self.db],
                        ["del", self.db, "k"]):
            with self.subTest(command=command):
                message = self.err(*command, status=FAILURE)
                self.assertTrue(message.startswith(f"bitkv: {command[0]}: {self.db}: "), message)
                self.assertFalse(os.path.exists(self.db))

    def test_no_create_stops_writing_commands(self):
        for command in (["put", "--no-create", self.db, "k", "v"],
                        ["load", "--no-create", self.db]):
            message = self.err(*command, status=FAILURE)
            self.assertIn("no database in this directory", message)
            self.assertIn("bitkv: hint: ", message)
            self.assertFalse(os.path.exists(self.db))

    def test_partition_count_is_fixed_at_creation(self):
        self.tool("put", "--partitions", "2", self.db, "k", "v")
        self.assertEqual(self.json("stats", "-j", self.db)["partitions"], 2)
        message = self.err("put", "--partitions", "3", self.db, "k", "v", status=FAILURE)
        self.assertIn("partition count mismatch", message)
        self.assertIn("bitkv: hint: ", message)

    def test_reading_changes_nothing_in_the_directory(self):
        self.tool("put", self.db, "k", "v")

        def snapshot():
            found = {}
            for root, _, names in os.walk(self.db):
                for name in names:
                    path = os.path.join(root, name)
                    with open(path, "rb") as file:
                        found[path] = (os.stat(path).st_mtime_ns, file.read())
            return found

        before = snapshot()
        for command in (["get", self.db, "k"], ["count", self.db], ["dump", self.db],
                        ["stats", self.db], ["check", self.db],
                        ["get", "--read-only", self.db, "k"]):
            self.tool(*command)
        self.assertEqual(snapshot(), before)


if __name__ == "__main__":
    main()
