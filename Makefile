# A thin front for CMake: `make help` lists the targets.

BUILD ?= build
JOBS  ?= $(shell nproc 2>/dev/null || echo 2)
# Tests that run at a time.
TEST_JOBS ?= 2
WERROR ?= OFF
# Parts of scripts/torture.sh, as patterns; all, if none is named.
PARTS ?=
# Names of bugs, or options of scripts/plant-bugs.py.
BITES ?=
# Options of scripts/coverage.py, and folders of src.
COVERAGE_ARGS ?=
# `bitkv-bench --help` lists them; --quick takes a few minutes.
BENCH_ARGS ?=
BITKV_SOAK_MINUTES ?= 30
DESTDIR ?=
# Empty: several times the executions a second, and less is noticed.
BITKV_FUZZ_SANITIZE ?= address
# Or afl: AFL++, in a build folder of its own.
BITKV_FUZZER ?= libfuzzer
FUZZ_BUILD = $(BUILD)/fuzz$(if $(filter afl,$(BITKV_FUZZER)),-afl)
FUZZ_CC = $(if $(filter afl,$(BITKV_FUZZER)),afl-clang-fast,clang)

CONFIGURE = cmake $$(command -v ninja >/dev/null && echo "-G Ninja") -S . -DBITKV_WERROR=$(WERROR)
TEST = ctest --output-on-failure --no-tests=error --parallel $(TEST_JOBS)

.DEFAULT_GOAL := all
.PHONY: help all demo test soak torture bites bench fuzz asan tsan memcheck coverage install format lint clean
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

help:
	@echo "make all      build the libraries, tools and examples"
	@echo "make demo     build BitKV and show it at work on this machine's package catalogue"
	@echo "make test     build it and run all tests"
	@echo "make soak     one database for BITKV_SOAK_MINUTES=30: kills, compaction, backups, repartition"
	@echo "make torture  an hour of crashes, faults and damage (BITKV_TORTURE_MINUTES=60, PARTS='crash.*')"
	@echo "make bites    plant bugs in a copy of the sources: do the tests notice?"
	@echo "make bench    measure it beside its peers (BENCH_ARGS=--quick)"
	@echo "make asan     all tests with AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make tsan     all tests with ThreadSanitizer"
	@echo "make memcheck tests of units, interface, damage and bugs under valgrind"
	@echo "make fuzz     libFuzzer on each format and the interface (BITKV_FUZZ_SECONDS=60 of each;"
	@echo "              BITKV_FUZZER=afl: AFL++)"
	@echo "make coverage branches and MC/DC that the tests reach (COVERAGE_ARGS='--list --threshold 100')"
	@echo "make install  install (PREFIX=/usr/local, DESTDIR=)"
	@echo "make format   lay out the sources with clang-format"
	@echo "make lint     layers, planted bugs, layout, clang-tidy, cppcheck"
	@echo "make clean    remove the build folder"

all:
	@scripts/setup.sh build
	@$(CONFIGURE) -B $(BUILD)/plain -DBITKV_BUILD_TESTS=OFF
	@cmake --build $(BUILD)/plain -j $(JOBS)

demo:
	@scripts/setup.sh demo
	@mkdir -p $(BUILD)
	@echo "building ... (log in $(BUILD)/demo.log)"
	@{ $(CONFIGURE) -B $(BUILD)/plain -DBITKV_BUILD_TESTS=OFF && \
	   cmake --build $(BUILD)/plain -j $(JOBS); } > $(BUILD)/demo.log 2>&1 || \
	   { cat $(BUILD)/demo.log; exit 1; }
	@scripts/demo.sh $(BUILD)/plain

test:
	@scripts/setup.sh test
	@$(CONFIGURE) -B $(BUILD)/test
	@cmake --build $(BUILD)/test -j $(JOBS)
	@cd $(BUILD)/test && $(TEST)

soak:
	@scripts/setup.sh test
	@$(CONFIGURE) -B $(BUILD)/test
	@cmake --build $(BUILD)/test -j $(JOBS)
	@cd $(BUILD)/test && BITKV_SOAK_MINUTES=$(BITKV_SOAK_MINUTES) \
	    $(TEST) -C soak -L soak --parallel 1 --verbose

torture:
	@scripts/setup.sh torture
	@$(CONFIGURE) -B $(BUILD)/test
	@cmake --build $(BUILD)/test -j $(JOBS)
	@scripts/torture.sh $(BUILD)/test $(PARTS)

bites:
	@scripts/setup.sh test
	@scripts/plant-bugs.py --build $(BUILD)/bites $(BITES)

bench:
	@scripts/setup.sh bench
	@$(CONFIGURE) -B $(BUILD)/bench -DBITKV_BUILD_TESTS=OFF -DBITKV_BUILD_BENCH=ON
	@cmake --build $(BUILD)/bench -j $(JOBS)
	@$(BUILD)/bench/bench/bitkv-bench --directory $(BUILD)/bench \
	    --markdown $(BUILD)/bench/report.md --json $(BUILD)/bench/report.json $(BENCH_ARGS)

asan:
	@scripts/setup.sh test
	@$(CONFIGURE) -B $(BUILD)/asan -DBITKV_SANITIZE=address
	@cmake --build $(BUILD)/asan -j $(JOBS)
	@cd $(BUILD)/asan && $(TEST)

tsan:
	@scripts/setup.sh test
	@$(CONFIGURE) -B $(BUILD)/tsan -DBITKV_SANITIZE=thread
	@cmake --build $(BUILD)/tsan -j $(JOBS)
	@cd $(BUILD)/tsan && $(TEST)

memcheck:
	@scripts/setup.sh memcheck
	@$(CONFIGURE) -B $(BUILD)/test
	@cmake --build $(BUILD)/test -j $(JOBS)
	@scripts/memcheck.sh $(BUILD)/test

fuzz:
	@scripts/setup.sh fuzz
	@$(CONFIGURE) -B $(FUZZ_BUILD) -DBITKV_BUILD_FUZZERS=ON -DBITKV_BUILD_EXAMPLES=OFF \
	    -DBITKV_SANITIZE=$(BITKV_FUZZ_SANITIZE) \
	    -DCMAKE_C_COMPILER=$(FUZZ_CC) -DCMAKE_CXX_COMPILER=$(FUZZ_CC)++
	@cmake --build $(FUZZ_BUILD) -j $(JOBS) --target fuzzers
	@BITKV_FUZZ_SECONDS=$(BITKV_FUZZ_SECONDS) BITKV_FUZZ_TARGETS="$(BITKV_FUZZ_TARGETS)" \
	    BITKV_FUZZER=$(BITKV_FUZZER) scripts/fuzz.sh $(FUZZ_BUILD)

coverage:
	@scripts/setup.sh coverage
	@$(CONFIGURE) -B $(BUILD)/coverage -DBITKV_COVERAGE=ON -DBITKV_BUILD_EXAMPLES=OFF \
	    -DCMAKE_C_COMPILER=clang-19 -DCMAKE_CXX_COMPILER=clang++-19
	@cmake --build $(BUILD)/coverage -j $(JOBS)
	@rm -rf $(BUILD)/coverage/profiles
	@cd $(BUILD)/coverage && $(TEST)
	@scripts/coverage.py $(BUILD)/coverage $(COVERAGE_ARGS)

install: all
	@DESTDIR=$(DESTDIR) cmake --install $(BUILD)/plain $(if $(PREFIX),--prefix $(PREFIX))
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

format:
	@scripts/setup.sh lint
	@scripts/format.sh

lint:
	@scripts/setup.sh lint
	@$(CONFIGURE) -B $(BUILD)/test
	@scripts/lint.sh $(BUILD)/test

clean:
	@rm -rf $(BUILD)
