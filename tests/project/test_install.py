#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""An installed BitKV can be used, whichever way a project finds it: through
CMake's find_package() and pkg-config, shared and static, and, not installed,
through add_subdirectory(). Each way a consumer is built and run.

Environment: BITKV_BINARY_DIR, the build folder; BITKV_CMAKE, the cmake that
made it; BITKV_CC, the compiler; BITKV_CXX, that for C++20, empty if there is none.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("BITKV_SOURCE_DIR", Path(__file__).parents[2]))
BUILD = Path(os.environ["BITKV_BINARY_DIR"])
CMAKE = os.environ.get("BITKV_CMAKE", "cmake")
CC = os.environ.get("BITKV_CC", "cc")
CXX = os.environ.get("BITKV_CXX", "")

CONSUMER = r"""
#include <bitkv.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    bitkv *db;
    char value[16] = "";
    size_t size = 0;
    if (argc != 2 || bitkv_open(&db, argv[1], NULL) != BITKV_OK) {
        fprintf(stderr, "open: %s\n", bitkv_error_context());
        return 1;
    }
    int bad = bitkv_put(db, "key", 3, "value", 5) != BITKV_OK ||
              bitkv_get_into(db, "key", 3, value, sizeof value, &size) != BITKV_OK || size != 5 ||
              memcmp(value, "value", 5) != 0;
    bad |= bitkv_close(db) != BITKV_OK;
    printf("%s %s\n", bad ? "bad" : "good", bitkv_version());
    return bad;
}
"""

CXX_CONSUMER = r"""
#include <bitkv.hpp>
#include <cstdio>

int main(int, char **argv)
{
    auto db = bitcask::sync_wait(bitcask::database::open({.directory = argv[1]}));
    bool good = db.has_value() && bitcask::sync_wait(db->put("key", "value")) &&
                bitcask::sync_wait(db->get_string("key")).value() == "value" &&
                bitcask::sync_wait(db->close());
    std::printf("%s %s\n", good ? "good" : "bad", bitkv_version());
    return !good;
}
"""


def run(*command, **options):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            **options)
    if result.returncode != 0:
        raise AssertionError(f"{shlex.join(map(str, command))}\n{result.stdout}")
    return result.stdout


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.top = Path(cls.folder.name)
        made = cls.top / "made"
        run(CMAKE, "--install", BUILD, "--prefix", made)
        # Elsewhere than where it was installed: the tree may be moved.
        cls.prefix = cls.top / "moved"
        made.rename(cls.prefix)
        cls.libdir = next(cls.prefix.rglob("libbitkv.a")).parent
        cls.environment = {
            **os.environ,
            "PKG_CONFIG_PATH": str(cls.libdir / "pkgconfig"),
            "LD_LIBRARY_PATH": str(cls.libdir),
        }

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def setUp(self):
        self.work = Path(tempfile.mkdtemp(dir=self.top))
        (self.work / "app.c").write_text(CONSUMER)

    def assert_works(self, program, shared):
        out = run(program, self.work / "db", env=self.environment)
        self.assertRegex(out, r"^good \d+\.\d+\.\d+$")
        needed = run("readelf", "-dW", program)
        self.assertEqual("libbitkv.so.0" in needed, shared)

    def build_with_cmake(self, *lines, options=()):
        (self.work / "CMakeLists.txt").write_text("\n".join([
            "cmake_minimum_required(VERSION 3.20)", "project(app C)", *lines, ""]))
        run(CMAKE, "-S", self.work, "-B", self.work / "b", f"-DCMAKE_C_COMPILER={CC}",
            f"-DCMAKE_PREFIX_PATH={self.prefix}", *options)
        run(CMAKE, "--build", self.work / "b")
        return self.work / "b/app"

    # --- find_package() ----------------------------------------------------

    def test_find_package_gives_the_shared_library(self):
        program = self.build_with_cmake(
            "find_package(bitkv 0.1 REQUIRED)",
            "add_executable(app app.c)",
            "target_link_libraries(app PRIVATE bitkv::bitkv)")
        self.assert_works(program, shared=True)

    def test_find_package_gives_the_static_library(self):
        program = self.build_with_cmake(
            "find_package(bitkv 0.1 REQUIRED)",
            "add_executable(app app.c)",
            "target_link_libraries(app PRIVATE bitkv::static)")
        self.assert_works(program, shared=False)

    def test_find_package_with_the_component_static(self):
        program = self.build_with_cmake(
            "find_package(bitkv REQUIRED COMPONENTS static)",
            "add_executable(app app.c)",
            "target_link_libraries(app PRIVATE bitkv::bitkv)")
        self.assert_works(program, shared=False)

    def test_find_package_refuses_another_version(self):
        for version in ["0.2", "1.0"]:
            with self.subTest(version=version), self.assertRaises(AssertionError):
                self.build_with_cmake(f"find_package(bitkv {version} REQUIRED)")

    def test_a_static_bitkv_in_a_shared_library_is_not_exported(self):
        (self.work / "plugin.c").write_text(
            "#include <bitkv.h>\nvoid *plugin(void);\n"
            "void *plugin(void) { bitkv *db = 0; return bitkv_open(&db, \"x\", 0) ? 0 : db; }\n")
        self.build_with_cmake(
            "find_package(bitkv REQUIRED)",
            "add_library(plugin SHARED plugin.c)",
            "target_link_libraries(plugin PRIVATE bitkv::static)")
        exported = run("nm", "-D", "--defined-only", self.work / "b/libplugin.so")
        self.assertIn("plugin", exported)
        self.assertNotIn("bitkv", exported)

    # --- pkg-config --------------------------------------------------------

    def pkg_config(self, *arguments):
        out = run("pkg-config", *arguments, "bitkv", env=self.environment)
        return shlex.split(out)

    def test_pkg_config_gives_the_shared_library(self):
        program = self.work / "app"
        run(CC, self.work / "app.c", *self.pkg_config("--cflags", "--libs"), "-o", program)
        self.assert_works(program, shared=True)

    def test_pkg_config_gives_the_static_library(self):
        program = self.work / "app"
        run(CC, self.work / "app.c", *self.pkg_config("--static", "--cflags", "--libs"),
            "-static", "-o", program)
        self.assert_works(program, shared=False)

    @unittest.skipUnless(CXX, "no compiler for C++20")
    def test_the_cpp_header_comes_along(self):
        (self.work / "app.cpp").write_text(CXX_CONSUMER)
        program = self.work / "app"
        run(CXX, "-std=c++20", self.work / "app.cpp", *self.pkg_config("--cflags", "--libs"),
            "-o", program)
        self.assert_works(program, shared=True)

    # --- add_subdirectory() ------------------------------------------------

    def subdirectory(self, *options):
        return self.build_with_cmake(
            "set(CMAKE_C_STANDARD 99)",
            f'add_subdirectory("{ROOT}" bitkv)',
            "add_executable(app app.c)",
            "target_link_libraries(app PRIVATE bitkv::bitkv)", options=options)

    def test_add_subdirectory_gives_the_static_library(self):
        program = self.subdirectory()
        self.assert_works(program, shared=False)
        # What the consumer did not ask for is not built.
        self.assertEqual([str(p) for p in (self.work / "b").rglob("libbitkv.so*")], [])
        for part in ["tests", "tools", "bench", "examples"]:
            self.assertFalse((self.work / "b/bitkv" / part).exists(), part)

    def test_add_subdirectory_with_shared_libraries(self):
        self.assert_works(self.subdirectory("-DBUILD_SHARED_LIBS=ON"), shared=True)

    # --- the rest ----------------------------------------------------------

    def test_documents_and_manual_pages_are_installed(self):
        for name in ["README.md", "CHANGELOG.md", "LICENSE"]:
            self.assertTrue((self.prefix / "share/doc/bitkv" / name).is_file(), name)
        for page in (ROOT / "man").glob("*.[1357]"):
            found = self.prefix / f"share/man/man{page.suffix[1:]}" / page.name
            self.assertTrue(found.is_file(), page.name)

    def test_nothing_else_is_installed_as_a_header(self):
        headers = sorted(str(p.relative_to(self.prefix)) for p in self.prefix.rglob("*.h*"))
        parts = sorted(f"include/bitkv/{p.name}" for p in (ROOT / "include/bitkv").iterdir())
        self.assertGreater(len(parts), 5)
        self.assertEqual(headers, sorted(["include/bitkv.h", "include/bitkv.hpp", *parts]))


if __name__ == "__main__":
    if shutil.which("pkg-config") is None:
        raise SystemExit("pkg-config is missing")
    unittest.main()
