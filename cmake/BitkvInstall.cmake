# cmake --install: headers, libraries, CMake package, pkg-config file, manual
# pages and documents. The tree that comes out may be moved as a whole.

include(CMakePackageConfigHelpers)

install(TARGETS bitkv_shared bitkv_static
    EXPORT bitkvTargets
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/bitkv.h include/bitkv.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/bitkv DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
    FILES_MATCHING PATTERN "*.hpp")

# --- CMake package ---------------------------------------------------------

set(bitkv_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/bitkv)
install(EXPORT bitkvTargets NAMESPACE bitkv:: DESTINATION ${bitkv_package_dir})
configure_package_config_file(cmake/bitkvConfig.cmake.in
    ${PROJECT_BINARY_DIR}/bitkvConfig.cmake
    INSTALL_DESTINATION ${bitkv_package_dir}
    NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/bitkvConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
install(FILES
    ${PROJECT_BINARY_DIR}/bitkvConfig.cmake
    ${PROJECT_BINARY_DIR}/bitkvConfigVersion.cmake
    DESTINATION ${bitkv_package_dir})

# --- pkg-config ------------------------------------------------------------

# Paths relative to the file itself, unless the packager gave absolute ones.
set(pc_dir ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH pc_up ${pc_dir} ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" pc_up "${pc_up}")
set(pc_prefix "\${pcfiledir}/${pc_up}")
foreach(kind IN ITEMS LIBDIR INCLUDEDIR)
    string(TOLOWER ${kind} lower)
    if(IS_ABSOLUTE "${CMAKE_INSTALL_${kind}}")
        set(pc_${lower} "${CMAKE_INSTALL_${kind}}")
    else()
        set(pc_${lower} "\${prefix}/${CMAKE_INSTALL_${kind}}")
    endif()
endforeach()
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
    set(pc_prefix "${CMAKE_INSTALL_PREFIX}")
endif()
configure_file(cmake/bitkv.pc.in ${PROJECT_BINARY_DIR}/bitkv.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/bitkv.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# --- manual pages and documents ---------------------------------------------

foreach(section IN ITEMS 1 3 5 7)
    file(GLOB pages CONFIGURE_DEPENDS man/*.${section})
    if(pages)
        install(FILES ${pages} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
    endif()
endforeach()

# `man 3 bitkv_open` and so on: pages that lead to bitkv.3, one for each
# function of its synopsis.
file(STRINGS man/bitkv.3 synopsis REGEX "^\\.Fn bitkv_[a-z_]+ (\"|void)")
foreach(line IN LISTS synopsis)
    string(REGEX REPLACE "^\\.Fn (bitkv_[a-z_]+) .*" "\\1" function "${line}")
    file(WRITE ${PROJECT_BINARY_DIR}/man3/${function}.3 ".so man3/bitkv.3\n")
    install(FILES ${PROJECT_BINARY_DIR}/man3/${function}.3
        DESTINATION ${CMAKE_INSTALL_MANDIR}/man3)
endforeach()

# Laid out as in this tree, so that links between documents lead somewhere;
# those to sources, which are not installed, become plain text.
file(READ README.md readme)
string(REGEX REPLACE "\\[([^]]+)\\]\\((include|src|tools|bench|tests|scripts)/[^)]*\\)" "\\1"
    readme "${readme}")
file(WRITE ${PROJECT_BINARY_DIR}/doc/README.md "${readme}")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS README.md man/bitkv.3)
install(FILES ${PROJECT_BINARY_DIR}/doc/README.md CHANGELOG.md CONTRIBUTING.md LICENSE
    DESTINATION ${CMAKE_INSTALL_DOCDIR})
file(GLOB documents CONFIGURE_DEPENDS docs/*.md)
install(FILES ${documents} DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs)
file(GLOB examples CONFIGURE_DEPENDS examples/*.c examples/*.cpp)
install(FILES ${examples} DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples)
