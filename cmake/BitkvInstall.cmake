# cmake --install: header, libraries, CMake package, pkg-config file, manual
# pages and documents. The tree that comes out may be moved as a whole.

include(CMakePackageConfigHelpers)

install(TARGETS bitkv_shared bitkv_static
    EXPORT bitkvTargets
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/bitkv.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

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
file(GLOB documents CONFIGURE_DEPENDS README.md CHANGELOG.md LICENSE docs/*.md)
install(FILES ${documents} DESTINATION ${CMAKE_INSTALL_DOCDIR})
