# Language, warnings and sanitizers of BitKV's own targets. Flags are set per
# target and PRIVATE, so that a project that adds BitKV as a subdirectory keeps
# its own.

set(bitkv_warnings
    -Wall -Wextra -Wpedantic
    -Wshadow -Wconversion -Wsign-conversion
    -Wstrict-prototypes -Wmissing-prototypes
    -Wundef -Wcast-qual -Wpointer-arith -Wwrite-strings
    -Wformat=2 -Wvla)
set(bitkv_cxx_warnings -Wall -Wextra -Wpedantic -Wshadow -Wconversion)

set(bitkv_sanitizer_flags "")
if(BITKV_SANITIZE STREQUAL "address")
    set(bitkv_sanitizer_flags -fsanitize=address,undefined)
elseif(BITKV_SANITIZE STREQUAL "thread")
    set(bitkv_sanitizer_flags -fsanitize=thread)
elseif(BITKV_SANITIZE)
    message(FATAL_ERROR "BITKV_SANITIZE is '${BITKV_SANITIZE}': use address, thread, or nothing")
endif()

# Counts the edges for libFuzzer, whose main() only the fuzzers themselves link.
if(BITKV_BUILD_FUZZERS)
    list(APPEND bitkv_sanitizer_flags -fsanitize=fuzzer-no-link)
endif()

# Objects of such a build need a run-time library that programs built outside
# it do not link.
set(bitkv_instrumented OFF)
if(BITKV_SANITIZE OR BITKV_COVERAGE OR BITKV_BUILD_FUZZERS)
    set(bitkv_instrumented ON)
endif()

# Branches and decisions are counted where the source has them, not where the
# compiler made some: clang does that, and knows MC/DC from version 18 on.
if(BITKV_COVERAGE)
    if(NOT CMAKE_C_COMPILER_ID STREQUAL "Clang" OR CMAKE_C_COMPILER_VERSION VERSION_LESS 18)
        message(FATAL_ERROR "BITKV_COVERAGE needs clang 18 or later: -DCMAKE_C_COMPILER=clang-19")
    endif()
    add_library(bitkv_coverage_exit OBJECT
        ${PROJECT_SOURCE_DIR}/tests/support-tools/coverage_exit.c)
endif()

# The library counts, and tests of what its headers define; the other programs
# only write down what it has counted.
function(bitkv_configure_coverage target)
    set(flags -fprofile-instr-generate -fcoverage-mapping)
    get_target_property(type ${target} TYPE)
    # An assertion counts as true, not as a branch; see src/base/assert.h.
    target_compile_definitions(${target} PRIVATE BKV_COVERAGE=1)
    if(target MATCHES "^(bitkv_(static|shared|scheduled)|test_unit_.*)$")
        target_compile_options(${target} PRIVATE ${flags} -fcoverage-mcdc
            -fprofile-update=atomic) # or threads lose each other's counts
    endif()
    if(type STREQUAL "EXECUTABLE")
        target_sources(${target} PRIVATE $<TARGET_OBJECTS:bitkv_coverage_exit>)
        target_link_options(${target} PRIVATE "LINKER:--wrap=_exit")
    endif()
    target_link_options(${target} PRIVATE ${flags})
endfunction()

# bitkv_configure_target(target): what every target of this project is built with.
function(bitkv_configure_target target)
    set_target_properties(${target} PROPERTIES
        C_STANDARD 17
        C_STANDARD_REQUIRED ON
        C_EXTENSIONS OFF
        C_VISIBILITY_PRESET hidden
        CXX_STANDARD 20
        CXX_STANDARD_REQUIRED ON
        CXX_EXTENSIONS OFF)
    target_compile_definitions(${target} PRIVATE
        _GNU_SOURCE
        # Assertions too dear for hot paths of a release; see src/base/assert.h.
        $<$<OR:$<CONFIG:Debug>,$<BOOL:${BITKV_SANITIZE}>>:BKV_DEBUG=1>)
    target_compile_options(${target} PRIVATE
        $<$<COMPILE_LANGUAGE:C>:${bitkv_warnings}>
        $<$<COMPILE_LANGUAGE:CXX>:${bitkv_cxx_warnings}>
        $<$<BOOL:${BITKV_WERROR}>:-Werror>)
    if(BITKV_COVERAGE)
        bitkv_configure_coverage(${target})
    endif()
    if(bitkv_sanitizer_flags)
        target_compile_options(${target} PRIVATE
            ${bitkv_sanitizer_flags} -fno-sanitize-recover=all -fno-omit-frame-pointer
            # What gcc instruments, it understands less of: its manual tells of
            # false positives. And it says that it does not model fences, for
            # which the code's own reasons and tests answer.
            $<$<C_COMPILER_ID:GNU>:-Wno-maybe-uninitialized;-Wno-tsan>)
        target_link_options(${target} PRIVATE ${bitkv_sanitizer_flags})
    endif()
endfunction()
