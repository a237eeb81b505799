# The tests and examples of bitkv.hpp. The library itself is C; where there is
# no compiler for coroutines, they are left out.
#
#   BITKV_HAVE_COROUTINES   whether there is one

include(CheckLanguage)
check_language(CXX)
set(BITKV_HAVE_COROUTINES OFF)
if(CMAKE_CXX_COMPILER)
    enable_language(CXX)
    include(CheckCXXSourceCompiles)
    set(CMAKE_REQUIRED_FLAGS "-std=c++20")
    check_cxx_source_compiles("
        #include <coroutine>
        #include <ranges>
        #include <span>
        int main() { return std::noop_coroutine().done(); }" bitkv_cxx20_works)
    unset(CMAKE_REQUIRED_FLAGS)
    set(BITKV_HAVE_COROUTINES ${bitkv_cxx20_works})
endif()
if(NOT BITKV_HAVE_COROUTINES)
    message(STATUS "bitkv.hpp: not tested, there is no compiler for C++20")
endif()
