#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""load and dump: every format, round trips, and what happens to malformed input."""
import base64
import json
import os
import random
import subprocess
import sys
import time

from toolcase import FAILURE, NOT_FOUND, USAGE, ToolCase, main, tool_path

STANZAS = (b"Package: one\nVersion: 1.0-1\nArchitecture: amd64\n"
           b"Description: a package\n with a long text\n .\n in two paragraphs\n"
           b"\n"
           b"Package: two\nVersion: 2:0.1\nArchitecture: all\n")


def varied_records():
    """Keys and values that break naive formats, some of them random."""
    source = random.Random(20240229)
    records = {
        b"plain": b"text", b"empty": b"", b"\x00": b"\x00", b"tab\tkey": b"tab\tvalue",
        b"newline\n": b"\n\n", b"back\\slash": b"\\n is not a newline \\", b"\r": b"\r\n",
        b"all": bytes(range(256)), "grün".encode(): "größer 🎉 \u2028".encode(),
        b"broken utf-8 \xc3": b"\xff\xfe", b'"quoted"': b'{"json": [1, 2]}', b" ": b" \t ",
        b"{": b"}", b"#": b"# no comment", b"Package: x": b"Version: y",
        b"long": source.randbytes(3_000_000), b"k" * 65535: b"a key of the greatest length",
    }
    for i in range(300):
        records[b"r%d-" % i + source.randbytes(source.randrange(20))] = source.randbytes(
            source.randrange(2000))
    return records


def jsonl(records):
    return b"".join(
        json.dumps({"key_base64": base64.b64encode(key).decode(),
                    "value_base64": base64.b64encode(value).decode()}).encode() + b"\n"
        for key, value in records.items())


class RoundTrips(ToolCase):
    def setUp(self):
        super().setUp()
        self.expected = varied_records()
        self.tool("load", "--format", "jsonl", self.db, stdin=jsonl(self.expected))

    def test_jsonl_to_jsonl(self):
        self.assertEqual(self.records(), self.expected)
        text = self.out("dump", "--format", "jsonl", self.db)
        self.tool("load", self.path("other"), stdin=text)
        self.assertEqual(self.records(self.path("other")), self.expected)

    def test_tsv_to_tsv(self):
        text = self.out("dump", self.db)
        self.assertEqual(text.count(b"\n"), len(self.expected))
        text.decode()  # whatever the bytes were, the dump is UTF-8
        self.tool("load", "--format", "tsv", self.path("other"), stdin=text)
        self.assertEqual(self.records(self.path("other")), self.expected)

    def test_the_shell_can_pipe_one_into_the_other(self):
        other = self.path("other")
        command = f"'{tool_path()}' dump '{self.db}' | '{tool_path()}' load -F tsv '{other}'"
        subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=60)
        self.assertEqual(self.records(other), self.expected)

    def test_dump_to_a_file(self):
        path = self.path("dump.tsv")
        self.assertEqual(self.out("dump", "--output", path, self.db), b"")
        with open(path, "rb") as file:
            self.assertEqual(sorted(file.read().splitlines()),
                             sorted(self.out("dump", self.db).splitlines()))

    def test_keys_only_and_prefix(self):
        keys = [key for key in self.expected if key.startswith(b"r1")]
        lines = self.out("dump", "--keys-only", "--prefix", "r1", self.db).splitlines()
        self.assertEqual(len(lines), len(keys))
        lines = self.out("dump", "--keys-only", "--format", "jsonl", "-p", "plain", self.db)
        self.assertEqual(lines, b'{"key":"plain"}\n')
        self.assertEqual(self.out("count", "--prefix", "r1", self.db), b"%d\n" % len(keys))
        self.assertEqual(self.out("count", "--hex", "--prefix", "00", self.db), b"1\n")
        self.assertEqual(self.out("count", self.db), b"%d\n" % len(self.expected))
        self.assertEqual(self.json("count", "--json", self.db), {"keys": len(self.expected)})

    def test_dump_in_hex(self):
        lines = self.out("dump", "--hex", self.db).split(b"\n")[:-1]
        pairs = [line.split(b"\t") for line in lines]
        self.assertEqual({bytes.fromhex(key.decode()): bytes.fromhex(value.decode())
                          for key, value in pairs}, self.expected)


class Deadlines(ToolCase):
    def setUp(self):
        super().setUp()
        self.deadline = int(time.time() * 1000) + 3_600_000
        self.tool("load", self.db, stdin=b'{"key":"a\\tb","value":"v","deadline_ms":%d}\n'
                                         b'{"key":"stays","value":"w"}\n' % self.deadline)

    def deadlines(self, db):
        lines = map(json.loads, self.out("dump", "--format", "jsonl", db).splitlines())
        return {line["key"]: line.get("deadline_ms") for line in lines}

    def test_they_survive_dump_and_load(self):
        """To the millisecond or so: what is left of the time is counted from the put."""
        for name, options in (("tsv", ()), ("jsonl", ("--format", "jsonl"))):
            copy = self.path(name)
            self.tool("load", copy, stdin=self.out("dump", *options, self.db))
            found = self.deadlines(copy)
            self.assertEqual(sorted(found), ["a\tb", "stays"])
            self.assertIsNone(found["stays"])
            self.assertLess(abs(found["a\tb"] - self.deadline), 200)
            self.assertEqual(self.records(copy), self.records())

    def test_the_forms(self):
        lines = sorted(self.out("dump", self.db).splitlines())
        self.assertRegex(lines[0], rb"^a\\tb\tv\texpires=\d+$")
        self.assertEqual(lines[1], b"stays\tw")
        self.assertIn(b"expires=", self.out("dump", "--hex", self.db))
        self.assertNotIn(b"expires", self.out("dump", "--keys-only", self.db))

    def test_what_has_expired_is_left_out_and_counted(self):
        past = self.deadline - 2 * 3_600_000
        for text in (b"k\tv\texpires=%d\nl\tw\n" % past,
                     b'{"key":"k","value":"v","deadline_ms":%d}\n{"key":"l","value":"w"}\n' % past):
            copy = self.path("copy %d" % len(text))
            document = self.json("load", "--json", copy, stdin=text)
            self.assertEqual((document["records"], document["expired"]), (1, 1))
            self.assertEqual(self.records(copy), {b"l": b"w"})
        self.assertIn(b"1 expired, left out; ",
                      self.out("load", self.path("text"), stdin=b"k\tv\texpires=1\n"))

    def test_an_expired_record_takes_the_older_value_of_its_key_along(self):
        self.tool("load", "--format", "tsv", self.db, stdin=b"q\told\nr\tstays\nq\tnew\texpires=5\n")
        self.tool("get", self.db, "q", status=NOT_FOUND)
        self.assertEqual(self.out("get", self.db, "r"), b"stays")
        self.assertIn("milliseconds since 1970",
                      self.err("load", "--format", "tsv", self.db, stdin=b"q\tv\texpires=soon\n",
                               status=FAILURE))

    def test_what_is_no_deadline_is_malformed(self):
        for text in (b"k\tv\texpires=\n", b"k\tv\texpires=-1\n", b"k\tv\texpires=1x\n",
                     b"k\tv\texpires=99999999999999999999\n", b"k\tv\t1\n", b"k\tv\texpires=1\t2\n"):
            wanted = "milliseconds since 1970" if b"expires=" in text else "a second tab"
            self.assertIn(wanted, self.err("load", self.path("bad"), stdin=text, status=FAILURE))
        for value in (b'"1"', b"1.5", b"-1", b"1e3", b"true"):
            self.assertIn("deadline_ms", self.err(
                "load", self.path("bad"), stdin=b'{"key":"k","value":"v","deadline_ms":%s}' % value,
                status=FAILURE))

    def test_in_other_documents_the_name_means_nothing(self):
        text = b'{"key":"k","deadline_ms":1,"data":"x"}'
        self.tool("load", "--whole", self.path("other"), stdin=text)
        self.assertEqual(self.out("get", self.path("other"), "k"), text)
        self.tool("load", "--value-field", "data", self.path("third"), stdin=text)
        self.assertEqual(self.out("get", self.path("third"), "k"), b"x")


class Tsv(ToolCase):
    def test_later_records_win_and_blank_lines_do_not_count(self):
        summary = self.out("load", self.db, stdin=b"a\t1\n\nb\t2\na\t3")
        self.assertIn(b"3 records loaded", summary)
        self.assertIn(b"2 keys, 0 before", summary)
        self.assertEqual(self.records(), {b"a": b"3", b"b": b"2"})

    def test_keys_with_colons_are_no_fields(self):
        self.tool("load", self.db, stdin=b"user:1001\tAlice\n")
        self.assertEqual(self.records(), {b"user:1001": b"Alice"})

    def test_malformed_lines_are_named(self):
        for line, wanted in [(b"no tab", "no tab"), (b"\tvalue", "the key is empty"),
                             (b"k\tv\tw", "column 4: a second tab"),
                             (b"k\ta\\qb", "column 4: bad value: unknown escape"),
                             (b"k\\x1\tv", "column 2: bad key"),
                             (b"k" * 65536 + b"\tv", "65536 bytes; the most is 65535")]:
            with self.subTest(line=line[:20]):
                path = self.write("bad.tsv", b"good\t1\n" + line + b"\nlater\t2\n")
                done = self.tool("load", "--format", "tsv", self.db, path, status=FAILURE)
                message = done.stderr.decode()
                self.assertIn(f"bitkv: load: {path}:2: ", message)
                self.assertIn(wanted, message)
                self.assertIn("--skip-bad", message)
                self.assertIn("stopped: 1 records loaded", message)
                self.assertEqual(done.stdout, b"")
                self.assertNotIn(b"later", self.records())

    def test_skip_bad_goes_on_and_counts(self):
        done = self.tool("load", "--skip-bad", self.db, stdin=b"a\t1\nbad\nb\t2\nworse\\\n\tx\n")
        self.assertEqual(self.records(), {b"a": b"1", b"b": b"2"})
        self.assertIn(b"3 malformed", done.stdout)
        self.assertIn(b"standard input:2: ", done.stderr)
        self.assertIn(b"standard input:5: ", done.stderr)
        result = self.json("load", "-j", "-s", "-F", "tsv", self.db, stdin=b"bad\nc\t3\n")
        self.assertEqual((result["records"], result["bad"], result["keys"], result["complete"]),
                         (1, 1, 3, True))


class Jsonl(ToolCase):
    def test_values_that_are_no_strings_stay_as_they_were_written(self):
        lines = (b'{"key": "number", "value": 1.10}\n'
                 b'{"key": "large", "value": 12345678901234567890123}\n'
                 b'{"value": { "a" : [ 1 , "x y" ], "b" : "\\" } , ]" }, "key": "object"}\n'
                 b'  {"key": "null", "value": null, "other": [{}]}\r\n'
                 b'{"key": 42, "value": true}\n'
                 b'{"v\\u0061lue": [ ], "key": "escaped name"}')
        self.tool("load", self.db, stdin=lines)
        self.assertEqual(self.records(), {
            b"number": b"1.10", b"large": b"12345678901234567890123",
            b"object": b'{"a":[1,"x y"],"b":"\\" } , ]"}', b"null": b"null", b"42": b"true",
            b"escaped name": b"[]"})

    def test_escapes_and_nul_in_strings(self):
        self.tool("load", self.db, stdin=b'{"key":"a\\u0000\\n","value":"\\ud83c\\udf89\\u0000"}\n')
        self.assertEqual(self.records(), {b"a\x00\n": "🎉\0".encode()})

    def test_fields_of_other_names(self):
        line = b'{"id": 7, "name": "seven", "raw_base64": "AP8="}\n'
        self.tool("load", "--key-field", "id", "--value-field", "name", self.db, stdin=line)
        self.tool("load", "-k", "name", "--value-field", "raw", self.db, stdin=line)
        self.tool("load", "-t", "{{{id}-{name}}}", "--whole", self.db, stdin=line)
        self.tool("load", "-k", "id", "--whole", self.path("whole"),
                  stdin=b' { "x" : 1, "id" : 5 }\n')
        whole = b'{"id":7,"name":"seven","raw_base64":"AP8="}'
        self.assertEqual(self.records(), {b"7": b"seven", b"seven": b"\x00\xff",
                                          b"{7-seven}": whole})
        self.assertEqual(self.records(self.path("whole")), {b"5": b'{"x":1,"id":5}'})

    def test_malformed_lines_are_named(self):
        for line, wanted in [(b"{", "column"), (b"[1]", "not a JSON object"),
                             (b'{"key":"a"}', 'no field "value"'),
                             (b'{"value":"a"}', 'no field "key"'),
                             (b'{"key":{},"value":"a"}', "neither a string nor a number"),
                             (b'{"key":"","value":"a"}', "the key is empty"),
                             (b'{"key":"a","key":"b","value":"c"}', "duplicate"),
                             (b'{"key":"\\ud800","value":"c"}', "column"),
                             (b'{"key":"\xff","value":"c"}', "column"),
                             (b'{"key":"a","value_base64":"A"}', "cut short"),
                             (b'{"key":"a","value_base64":5}', "not a string"),
                             (b'{"key":"a","value":"b"} x', "column")]:
            with self.subTest(line=line):
                path = self.write("bad.jsonl", b'{"key":"k","value":"v"}\n\n' + line + b"\n")
                message = self.err("load", "-F", "jsonl", self.db, path, status=FAILURE)
                self.assertIn(f"bitkv: load: {path}:3: ", message)
                self.assertIn(wanted, message)


class Deb822(ToolCase):
    def test_the_value_is_the_stanza(self):
        self.tool("load", self.db, stdin=b"\n# a comment\n\n# another\n" + STANZAS + b"\n \n\n")
        one, two = STANZAS.split(b"\n\n")
        self.assertEqual(self.records(), {b"one": one + b"\n", b"two": two})

    def test_composite_keys(self):
        self.tool("load", "--key-template", "{package}/{Version}_{Architecture}", self.db,
                  stdin=STANZAS)
        self.assertEqual(set(self.records()), {b"one/1.0-1_amd64", b"two/2:0.1_all"})

    def test_another_field_as_the_key(self):
        self.tool("load", "--key-field", "version", self.db, stdin=STANZAS)
        self.assertEqual(set(self.records()), {b"1.0-1", b"2:0.1"})

    def test_malformed_stanzas_are_named_and_can_be_skipped(self):
        text = (b"Package: a\n\nVersion: 1\n\nPackage: b\nno field\nX: y\n\n continuation\n\n"
                b"Package: c\n")
        done = self.tool("load", "--skip-bad", self.db, stdin=text)
        message = done.stderr.decode()
        self.assertIn('standard input:3: no field "Package"', message)
        self.assertIn("standard input:6: neither", message)
        self.assertIn("standard input:9: a continuation line", message)
        self.assertEqual(self.records(), {b"a": b"Package: a\n", b"c": b"Package: c\n"})

    def test_a_missing_field_of_a_template_is_named(self):
        message = self.err("load", "-t", "{Package}/{Nothing}", self.db, stdin=STANZAS,
                           status=FAILURE)
        self.assertIn('standard input:1: no field "Nothing"', message)

    def test_many_stanzas_across_buffers(self):
        stanzas = [b"Package: p%d\nText: %s\n" % (i, b"x" * (i * 37 % 5000)) for i in range(2000)]
        self.tool("load", self.db, stdin=b"\n".join(stanzas))
        self.assertEqual(self.records(), {b"p%d" % i: s for i, s in enumerate(stanzas)})


class Input(ToolCase):
    def test_several_files_of_several_formats(self):
        files = [self.write("a", b"t\t1\n"), self.write("b", b'{"key":"j","value":"2"}\n'),
                 self.write("c", STANZAS)]
        self.tool("load", self.db, *files, "-", stdin=b"i\t3\n")
        self.assertEqual(set(self.records()), {b"t", b"j", b"one", b"two", b"i"})

    def test_empty_input_is_no_records(self):
        self.assertIn(b"0 records loaded", self.out("load", self.db))
        self.assertEqual(self.out("count", self.db), b"0\n")
        self.assertEqual(self.out("dump", self.db), b"")

    def test_a_format_that_cannot_be_guessed(self):
        message = self.err("load", self.db, stdin=b"just some text\n", status=FAILURE)
        self.assertIn("cannot tell the format", message)
        self.assertIn("--format", message)

    def test_a_missing_file_is_told_before_anything_is_stored(self):
        path = self.path("missing")
        message = self.err("load", self.db, self.write("a", b"k\tv\n"), path, status=FAILURE)
        self.assertIn(f"bitkv: load: {path}: No such file", message)
        self.assertFalse(os.path.exists(self.db))

    def test_a_directory_as_a_file(self):
        self.assertIn("Is a directory", self.err("load", self.db, self.directory, status=FAILURE))

    def test_wrong_use_is_told_before_a_database_is_made(self):
        for options in (["-F", "xml"], ["-t", "constant"], ["-t", "{open"], ["-t", "{}"],
                        ["-t", "close}"], ["-k", "a", "-t", "{b}"], ["-w", "--value-field", "x"]):
            with self.subTest(options=options):
                self.err("load", *options, self.db, stdin=STANZAS, status=USAGE)
                self.assertFalse(os.path.exists(self.db))
        self.err("load", "-F", "tsv", "-t", "{b}", self.db, stdin=b"a\tb\n", status=USAGE)

    def test_a_very_long_line(self):
        value = b"v" * 40_000_000
        self.tool("load", self.db, stdin=b"long\t" + value + b"\nnext\t1\n")
        self.assertEqual(self.out("get", self.db, "long"), value)
        self.assertEqual(self.out("get", self.db, "next"), b"1")

    def test_memory_does_not_grow_with_the_input(self):
        # 300 MB of one key: the store keeps them on disk, the tool must not keep them at all.
        script = ("import resource, subprocess, sys\n"
                  "p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE,"
                  " stdout=subprocess.DEVNULL)\n"
                  "block = b'k\\t' + b'v' * 99997 + b'\\n'\n"
                  "for _ in range(3000): p.stdin.write(block)\n"
                  "p.stdin.close()\n"
                  "assert p.wait() == 0\n"
                  "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n")
        # A small data file, so that what is mapped of it does not count.
        done = subprocess.run([sys.executable, "-c", script, tool_path(), "load", "-F", "tsv",
                               "--partitions", "1", "--io-mode", "pwrite", "--max-file-size", "1M",
                               self.db], capture_output=True, check=True, timeout=120,
                              # A sanitized build keeps freed memory for a while.
                              env=dict(os.environ, ASAN_OPTIONS="quarantine_size_mb=1"))
        self.assertLess(int(done.stdout), 150_000, "kilobytes at most")


if __name__ == "__main__":
    main()
