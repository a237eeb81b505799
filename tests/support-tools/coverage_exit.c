/* SPDX-License-Identifier: MIT */
/*
 * Counts of what ran are written when a process returns from main() or calls
 * exit(). Children that tests fork end by _exit(), as must one that shares its
 * parent's buffers: the linker sends those calls here (--wrap=_exit). What is
 * killed leaves none.
 */
int __llvm_profile_write_file(void);
_Noreturn void __real__exit(int status);
_Noreturn void __wrap__exit(int status);

_Noreturn void __wrap__exit(int status)
{
    (void)__llvm_profile_write_file();
    __real__exit(status);
}
