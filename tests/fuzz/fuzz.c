/* SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "io/io.h"
#include "log/checkpoint.h"
#include "log/durable.h"
#include "log/format.h"
#include "log/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void fuzz_fail(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)fprintf(stderr, "%s:%d: %s: ", file, line, condition);
    (void)vfprintf(stderr, format, arguments);
    (void)fputc('\n', stderr);
    va_end(arguments);
    abort();
}

/* --- inputs ------------------------------------------------------------------------ */

const uint8_t *fuzz_bytes(struct fuzz_input *in, size_t *size)
{
    const uint8_t *bytes = in->data;
    if (*size > in->size)
        *size = in->size;
    in->data += *size;
    in->size -= *size;
    return bytes;
}

uint8_t fuzz_u8(struct fuzz_input *in)
{
    size_t size = 1;
    const uint8_t *bytes = fuzz_bytes(in, &size);
    return size == 1 ? bytes[0] : 0;
}

uint16_t fuzz_u16(struct fuzz_input *in)
{
    uint16_t low = fuzz_u8(in);
    return (uint16_t)(low | fuzz_u8(in) << 8);
}

void fuzz_files_take(struct fuzz_input *in, struct fuzz_file *files, size_t count)
{
    while (in->size > 0) {
        struct fuzz_file *file = &files[fuzz_u8(in) % count];
        size_t size = fuzz_u16(in);
        size_t zeros = (size_t)fuzz_u16(in) * 8;
        const uint8_t *bytes = fuzz_bytes(in, &size);
        file->there = true;
        if (size + zeros > FUZZ_FILE_MAX - file->size)
            continue;
        uint8_t *data = realloc(file->data, file->size + size + zeros + 1);
        FUZZ_CHECK(data != NULL, "out of memory");
        if (size > 0)
            memcpy(data + file->size, bytes, size);
        memset(data + file->size + size, 0, zeros);
        file->data = data;
        file->size += size + zeros;
    }
}

void fuzz_files_free(struct fuzz_file *files, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(files[i].data);
}

/* --- checksums ------------------------------------------------------------------------ */

void fuzz_mend_manifest(struct fuzz_file *file)
{
    if (file->size >= BKV_MANIFEST_SIZE)
        bkv_put32(file->data + BKV_MANIFEST_SIZE - 4,
                  bkv_crc32c(0, file->data, BKV_MANIFEST_SIZE - 4));
}

void fuzz_mend_durable(struct fuzz_file *file)
{
    if (file->size < BKV_DURABLE_SIZE)
        return;
    file->size = BKV_DURABLE_SIZE;
    memcpy(file->data, BKV_DURABLE_MAGIC, 8);
    bkv_put32(file->data + 48, bkv_crc32c(0, file->data, 48));
}

void fuzz_mend_hint(struct fuzz_file *file)
{
    if (file->size < BKV_HINT_HEADER)
        return;
    uint32_t crc = bkv_crc32c(0, file->data + BKV_HINT_HEADER, file->size - BKV_HINT_HEADER);
    bkv_put32(file->data + 112, crc);
    bkv_put32(file->data + 116, bkv_crc32c(0, file->data, 116));
}

void fuzz_mend_checkpoint(struct fuzz_file *file)
{
    if (file->size < BKV_CHECKPOINT_HEADER)
        return;
    uint64_t table = bkv_get64(file->data + 88);
    if (table < BKV_CHECKPOINT_HEADER || table > file->size)
        return;
    bkv_put32(file->data + 104, bkv_crc32c(0, file->data + BKV_CHECKPOINT_HEADER,
                                           (size_t)table - BKV_CHECKPOINT_HEADER));
    uint32_t crc = bkv_crc32c(0, file->data, 108);
    bkv_put32(file->data + 108, bkv_crc32c(crc, file->data + table, file->size - (size_t)table));
}

void fuzz_mend_segment(struct fuzz_file *file)
{
    if (file->size >= BKV_SEGMENT_HEADER)
        bkv_put32(file->data + 60, bkv_crc32c(0, file->data, 60));
}

void fuzz_mend_records(struct fuzz_file *file, size_t at, uint64_t seed)
{
    while (at + BKV_RECORD_HEADER <= file->size) {
        uint8_t *bytes = file->data + at;
        struct bkv_record record = bkv_record_peek(bytes);
        uint64_t size = bkv_record_size_of(&record);
        if (!bkv_record_plausible(&record) || size > file->size - at) {
            at += BKV_RECORD_ALIGNMENT;
            continue;
        }
        uint32_t crc = bkv_record_crc_begin(bytes);
        crc = bkv_crc32c(crc, bytes + BKV_RECORD_HEADER, (size_t)size - BKV_RECORD_HEADER);
        bkv_record_finish(bytes, crc, record.sequence, seed, at);
        at += (size_t)size;
    }
}

/* --- a file in memory ------------------------------------------------------------------- */

#define MEMORY_FD 1000000

static struct bkv_io_ops memory_ops;
static const uint8_t *memory_data;
static size_t memory_size;
static char memory_path[] = "memory";
static struct bkv_dir memory_dir;

static int memory_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    (void)dirfd, (void)path, (void)flags, (void)mode;
    return MEMORY_FD;
}

static int memory_close(int fd)
{
    FUZZ_CHECK(fd == MEMORY_FD, "closed %d", fd);
    return 0;
}

static ssize_t memory_pread(int fd, void *data, size_t size, off_t offset)
{
    FUZZ_CHECK(fd == MEMORY_FD, "read %d", fd);
    if (offset < 0) {
        errno = EINVAL;
        return -1;
    }
    if ((uint64_t)offset >= memory_size)
        return 0;
    size_t left = memory_size - (size_t)offset;
    size = size < left ? size : left;
    memcpy(data, memory_data + offset, size);
    return (ssize_t)size;
}

static int memory_fstat(int fd, struct stat *status)
{
    FUZZ_CHECK(fd == MEMORY_FD, "stat %d", fd);
    *status = (struct stat){.st_mode = S_IFREG | 0600, .st_size = (off_t)memory_size};
    return 0;
}

struct bkv_dir *fuzz_memory_begin(const uint8_t *data, size_t size)
{
    memory_ops = (struct bkv_io_ops){
        .openat = memory_openat,
        .close = memory_close,
        .pread = memory_pread,
        .fstat = memory_fstat,
    };
    bkv_io = &memory_ops;
    memory_data = data;
    memory_size = size;
    memory_dir = (struct bkv_dir){.fd = MEMORY_FD, .path = memory_path};
    return &memory_dir;
}

void fuzz_memory_end(void)
{
    FUZZ_CHECK(atomic_load(&memory_dir.open_files) == 0, "a file was left open");
    bkv_io = &bkv_io_kernel;
}

/* --- files on disk ------------------------------------------------------------------------ */

static char scratch[LAB_PATH];

static void remove_scratch(void)
{
    lab_remove(scratch);
}

const char *fuzz_scratch(void)
{
    if (scratch[0] == '\0') {
        const char *base = getenv("BITKV_FUZZ_DIR");
        if (base == NULL)
            base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : getenv("TMPDIR");
        (void)snprintf(scratch, sizeof scratch, "%s/bitkv-fuzz-%d", base != NULL ? base : "/tmp",
                       (int)getpid());
        (void)atexit(remove_scratch);
        lab_sync_off();
    }
    lab_remove(scratch);
    FUZZ_CHECK(mkdir(scratch, 0700) == 0, "%s: %s", scratch, strerror(errno));
    return scratch;
}

void fuzz_scratch_write(const char *name, const void *data, size_t size)
{
    char path[LAB_PATH];
    lab_join(path, scratch, name);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    (void)mkdir(path, 0700);
    *slash = '/';
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FUZZ_CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    FUZZ_CHECK(size == 0 || write(fd, data, size) == (ssize_t)size, "%s: %s", path,
               strerror(errno));
    (void)close(fd);
}
