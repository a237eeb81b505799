/* SPDX-License-Identifier: MIT */
#include "crash/sim.h"

#include "base/crc32c.h"
#include "damage/lab.h"
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define SECTOR    512u
#define NO_NODE   UINT32_MAX
#define NAME_MOST 64u /* of the library's names, and of tests' folders */

enum kind {
    EVENT_WRITE,
    EVENT_SIZE,
    EVENT_SYNC,     /* of a file or a directory */
    EVENT_DROP,     /* a sync of the file has failed */
    EVENT_NAME,     /* `name` in `node` is `other`; NO_NODE: is gone */
    EVENT_RENAME,   /* `name` is gone, `to` is `other` */
    EVENT_EXCHANGE, /* `name` is `second`, `to` is `other` */
};

struct event {
    enum kind kind;
    uint32_t node, other, second;
    uint64_t offset, size; /* SIZE: the new one */
    uint8_t *data;
    char name[NAME_MOST], to[NAME_MOST];
};

/* A file or directory, known by its inode: a rename moves it. The descriptor
 * keeps the number from being used again. */
struct node {
    int fd;
    dev_t device;
    ino_t number;
    bool is_directory;
    unsigned mapped; /* writable mappings */
    uint8_t *first;  /* content at the beginning, durable */
    size_t first_size;
    uint8_t *now;
    size_t size, capacity;
};

struct map {
    void *base;
    uint32_t node;
};

struct sim {
    struct event *events;
    size_t count, capacity;
    struct node *nodes;
    uint32_t node_count, node_capacity;
    struct map maps[512];
    struct event *begin; /* the names at the beginning, as events */
    size_t begin_count, begin_capacity;
    const struct bkv_io_ops *before;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sim *sim;
static struct bkv_io_ops recording;
static bool sync_fails; /* the next one of a file */

static void *grown(void *items, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return items;
    *capacity = *capacity * 2 + 64;
    items = realloc(items, *capacity * size);
    if (items == NULL)
        abort();
    return items;
}

/* --- nodes ---------------------------------------------------------------------- */

static uint32_t node_of(int fd)
{
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0)
        return NO_NODE;
    for (uint32_t i = sim->node_count; i-- > 0;) {
        if (sim->nodes[i].number == status.st_ino && sim->nodes[i].device == status.st_dev)
            return i;
    }
    return NO_NODE;
}

static uint32_t node_of_name(int dirfd, const char *name)
{
    int fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    uint32_t node = node_of(fd);
    if (fd >= 0)
        (void)close(fd);
    return node;
}

static uint32_t node_new(struct node node)
{
    size_t capacity = sim->node_capacity;
    sim->nodes = grown(sim->nodes, &capacity, sim->node_count, sizeof *sim->nodes);
    sim->node_capacity = (uint32_t)capacity;
    sim->nodes[sim->node_count] = node;
    return sim->node_count++;
}

/* Of which nothing is there any more. */
static uint32_t node_add_unnamed(bool is_directory)
{
    return node_new((struct node){.fd = -1, .is_directory = is_directory});
}

static uint32_t node_add(int dirfd, const char *name)
{
    struct stat status;
    int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0)
        abort();
    return node_new((struct node){.fd = fd,
                                  .device = status.st_dev,
                                  .number = status.st_ino,
                                  .is_directory = S_ISDIR(status.st_mode)});
}

static void node_resize(struct node *node, size_t size)
{
    if (size > node->capacity) {
        node->capacity = size + size / 2;
        node->now = realloc(node->now, node->capacity);
        if (node->now == NULL)
            abort();
    }
    if (size > node->size)
        memset(node->now + node->size, 0, size - node->size);
    node->size = size;
}

/* --- the journal, under the mutex --------------------------------------------------- */

static struct event *append(enum kind kind, uint32_t node)
{
    sim->events = grown(sim->events, &sim->capacity, sim->count, sizeof *sim->events);
    struct event *e = &sim->events[sim->count++];
    *e = (struct event){.kind = kind, .node = node, .other = NO_NODE, .second = NO_NODE};
    return e;
}

static void set_size(uint32_t number, uint64_t size)
{
    struct node *node = &sim->nodes[number];
    if (size == node->size)
        return;
    append(EVENT_SIZE, number)->size = size;
    node_resize(node, size);
}

static void wrote(uint32_t number, uint64_t offset, const void *data, size_t size)
{
    struct node *node = &sim->nodes[number];
    if (size == 0)
        return;
    if (offset + size > node->size)
        node_resize(node, offset + size);
    memcpy(node->now + offset, data, size);
    struct event *e = append(EVENT_WRITE, number);
    e->offset = offset;
    e->size = size;
    e->data = malloc(size);
    memcpy(e->data, data, size);
}

/* Stores into a mapping show as a difference; gaps this small belong to one. */
#define GAP 64u

static void see_stores_of(uint32_t number)
{
    static uint8_t present[4u << 20];
    struct node *node = &sim->nodes[number];
    ssize_t got = pread(node->fd, present, sizeof present, 0);
    size_t size = got < 0 ? 0 : (size_t)got < node->size ? (size_t)got : node->size;
    for (size_t at = 0; at < size;) {
        size_t piece = size - at < 4096 ? size - at : 4096;
        if (memcmp(present + at, node->now + at, piece) == 0) {
            at += piece;
            continue;
        }
        while (present[at] == node->now[at])
            at++;
        size_t end = at + 1;
        for (size_t i = end; i < size && i - end < GAP; i++)
            end = present[i] != node->now[i] ? i + 1 : end;
        wrote(number, at, present + at, end - at);
        at = end;
    }
}

static void see_stores(void)
{
    for (uint32_t i = 0; i < sim->node_count; i++) {
        if (sim->nodes[i].mapped > 0)
            see_stores_of(i);
    }
}

static void lock(void)
{
    (void)pthread_mutex_lock(&mutex);
    see_stores();
}

static void unlock(void)
{
    int error = errno;
    (void)pthread_mutex_unlock(&mutex);
    errno = error;
}

/* Of the directory that holds `name`, and where its last component begins. */
static uint32_t folder_of(int dirfd, const char *name, const char **base)
{
    const char *slash = strrchr(name, '/');
    *base = slash != NULL ? slash + 1 : name;
    if (slash == NULL)
        return node_of(dirfd);
    char folder[LAB_PATH];
    (void)snprintf(folder, sizeof folder, "%.*s", (int)(slash - name), name);
    return node_of_name(dirfd, folder);
}

static struct event *append_name(enum kind kind, uint32_t folder, const char *name)
{
    struct event *e = append(kind, folder);
    if (strlen(name) >= sizeof e->name)
        abort();
    (void)snprintf(e->name, sizeof e->name, "%.63s", name);
    return e;
}

static int on_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if ((flags & (O_CREAT | O_TRUNC)) == 0)
        return bkv_io_kernel.openat(dirfd, name, flags, mode);
    lock();
    const char *base;
    uint32_t folder = folder_of(dirfd, name, &base);
    int fd = bkv_io_kernel.openat(dirfd, name, flags, mode);
    if (fd >= 0 && folder != NO_NODE) {
        uint32_t node = node_of(fd);
        if (node == NO_NODE) {
            node = node_add(dirfd, name);
            append_name(EVENT_NAME, folder, base)->other = node;
        } else if ((flags & O_TRUNC) != 0) {
            set_size(node, 0);
        }
    }
    unlock();
    return fd;
}

static ssize_t on_pwrite(int fd, const void *data, size_t size, off_t offset)
{
    lock();
    ssize_t n = bkv_io_kernel.pwrite(fd, data, size, offset);
    uint32_t node = n > 0 ? node_of(fd) : NO_NODE;
    if (node != NO_NODE)
        wrote(node, (uint64_t)offset, data, (size_t)n);
    unlock();
    return n;
}

static int on_fallocate(int fd, off_t offset, off_t size)
{
    lock();
    int rc = bkv_io_kernel.fallocate(fd, offset, size);
    uint32_t node = rc == 0 ? node_of(fd) : NO_NODE;
    if (node != NO_NODE && (size_t)(offset + size) > sim->nodes[node].size)
        set_size(node, (uint64_t)(offset + size));
    unlock();
    return rc;
}

static int on_ftruncate(int fd, off_t size)
{
    lock();
    int rc = bkv_io_kernel.ftruncate(fd, size);
    uint32_t node = rc == 0 ? node_of(fd) : NO_NODE;
    if (node != NO_NODE)
        set_size(node, (uint64_t)size);
    unlock();
    return rc;
}

static int on_sync(int fd)
{
    lock();
    uint32_t node = node_of(fd);
    bool fails = node != NO_NODE && sync_fails && !sim->nodes[node].is_directory;
    if (node != NO_NODE)
        (void)append(fails ? EVENT_DROP : EVENT_SYNC, node);
    sync_fails = sync_fails && !fails;
    unlock();
    errno = EIO;
    return fails ? -1 : 0;
}

static int on_renameat(int dirfd, const char *from, const char *to)
{
    lock();
    const char *base, *to_base;
    uint32_t folder = folder_of(dirfd, from, &base), node = node_of_name(dirfd, from);
    if (folder != folder_of(dirfd, to, &to_base))
        abort(); /* the library has no use for it */
    int rc = bkv_io_kernel.renameat(dirfd, from, to);
    if (rc == 0 && folder != NO_NODE && node != NO_NODE) {
        struct event *e = append_name(EVENT_RENAME, folder, base);
        e->other = node;
        (void)snprintf(e->to, sizeof e->to, "%.63s", to_base);
    }
    unlock();
    return rc;
}

static int on_renameat2(int dirfd, const char *from, const char *to, unsigned flags)
{
    lock();
    const char *base, *to_base;
    uint32_t folder = folder_of(dirfd, from, &base);
    if (folder != folder_of(dirfd, to, &to_base))
        abort();
    uint32_t node = node_of_name(dirfd, from), second = node_of_name(dirfd, to);
    int rc = bkv_io_kernel.renameat2(dirfd, from, to, flags);
    if (rc == 0 && folder != NO_NODE) {
        bool exchange = (flags & RENAME_EXCHANGE) != 0;
        struct event *e = append_name(exchange ? EVENT_EXCHANGE : EVENT_RENAME, folder, base);
        e->other = node;
        e->second = second;
        (void)snprintf(e->to, sizeof e->to, "%.63s", to_base);
    }
    unlock();
    return rc;
}

static int on_linkat(int from_dirfd, const char *from, int to_dirfd, const char *to)
{
    lock();
    const char *base;
    uint32_t folder = folder_of(to_dirfd, to, &base), node = node_of_name(from_dirfd, from);
    int rc = bkv_io_kernel.linkat(from_dirfd, from, to_dirfd, to);
    if (rc == 0 && folder != NO_NODE)
        append_name(EVENT_NAME, folder, base)->other = node;
    unlock();
    return rc;
}

static ssize_t on_copy_file_range(int from, off_t from_offset, int to, off_t to_offset, size_t size)
{
    lock();
    ssize_t n = bkv_io_kernel.copy_file_range(from, from_offset, to, to_offset, size);
    uint32_t node = n > 0 ? node_of(to) : NO_NODE;
    if (node != NO_NODE) {
        uint8_t *data = malloc((size_t)n);
        if (pread(sim->nodes[node].fd, data, (size_t)n, to_offset) != n)
            abort();
        wrote(node, (uint64_t)to_offset, data, (size_t)n);
        free(data);
    }
    unlock();
    return n;
}

static int gone(int (*call)(int, const char *), int dirfd, const char *name)
{
    lock();
    const char *base;
    uint32_t folder = folder_of(dirfd, name, &base);
    int rc = call(dirfd, name);
    if (rc == 0 && folder != NO_NODE)
        (void)append_name(EVENT_NAME, folder, base);
    unlock();
    return rc;
}

static int on_unlinkat(int dirfd, const char *name)
{
    return gone(bkv_io_kernel.unlinkat, dirfd, name);
}

static int on_rmdirat(int dirfd, const char *name)
{
    return gone(bkv_io_kernel.rmdirat, dirfd, name);
}

static int on_mkdirat(int dirfd, const char *name, mode_t mode)
{
    lock();
    const char *base;
    uint32_t folder = folder_of(dirfd, name, &base);
    int rc = bkv_io_kernel.mkdirat(dirfd, name, mode);
    if (rc == 0 && folder != NO_NODE)
        append_name(EVENT_NAME, folder, base)->other = node_add(dirfd, name);
    unlock();
    return rc;
}

static void *on_mmap(size_t size, int protection, int flags, int fd)
{
    lock();
    void *base = bkv_io_kernel.mmap(size, protection, flags, fd);
    uint32_t node = base != MAP_FAILED && (protection & PROT_WRITE) != 0 ? node_of(fd) : NO_NODE;
    if (node != NO_NODE) {
        size_t i = 0;
        while (i < sizeof sim->maps / sizeof sim->maps[0] && sim->maps[i].base != NULL)
            i++;
        if (i == sizeof sim->maps / sizeof sim->maps[0])
            abort();
        sim->maps[i] = (struct map){base, node};
        sim->nodes[node].mapped++;
    }
    unlock();
    return base;
}

static int on_munmap(void *base, size_t size)
{
    lock();
    for (size_t i = 0; i < sizeof sim->maps / sizeof sim->maps[0]; i++) {
        if (sim->maps[i].base != base)
            continue;
        sim->nodes[sim->maps[i].node].mapped--;
        sim->maps[i].base = NULL;
    }
    int rc = bkv_io_kernel.munmap(base, size);
    unlock();
    return rc;
}

/* --- recording ------------------------------------------------------------------------ */

static void load(uint32_t folder)
{
    DIR *list = fdopendir(openat(sim->nodes[folder].fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    assert_non_null(list);
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        uint32_t number = node_of_name(sim->nodes[folder].fd, entry->d_name);
        bool known = number != NO_NODE; /* another name of it */
        if (!known)
            number = node_add(sim->nodes[folder].fd, entry->d_name);
        sim->begin = grown(sim->begin, &sim->begin_capacity, sim->begin_count, sizeof *sim->begin);
        struct event *e = &sim->begin[sim->begin_count++];
        *e = (struct event){.kind = EVENT_NAME, .node = folder, .other = number};
        (void)snprintf(e->name, sizeof e->name, "%.63s", entry->d_name);
        struct node *node = &sim->nodes[number];
        if (node->is_directory) {
            load(number);
        } else if (!known) {
            struct stat status;
            assert_int_equal(fstat(node->fd, &status), 0);
            node_resize(node, (size_t)status.st_size);
            assert_int_equal(pread(node->fd, node->now, node->size, 0), node->size);
            node->first_size = node->size;
            node->first = malloc(node->size + 1);
            if (node->size > 0)
                memcpy(node->first, node->now, node->size);
        }
    }
    (void)closedir(list);
}

struct sim *sim_begin(const char *root)
{
    sim = calloc(1, sizeof *sim);
    assert_non_null(sim);
    load(node_add(AT_FDCWD, root));
    sim->before = bkv_io;
    recording = bkv_io_kernel;
    recording.openat = on_openat;
    recording.pwrite = on_pwrite;
    recording.fallocate = on_fallocate;
    recording.ftruncate = on_ftruncate;
    recording.fdatasync = recording.fsync = on_sync;
    recording.renameat = on_renameat;
    recording.renameat2 = on_renameat2;
    recording.linkat = on_linkat;
    recording.copy_file_range = on_copy_file_range;
    recording.unlinkat = on_unlinkat;
    recording.rmdirat = on_rmdirat;
    recording.mkdirat = on_mkdirat;
    recording.mmap = on_mmap;
    recording.munmap = on_munmap;
    bkv_io = &recording;
    return sim;
}

size_t sim_events(struct sim *of)
{
    lock();
    size_t count = of->count;
    unlock();
    return count;
}

void sim_fail_sync(struct sim *of, bool fails)
{
    (void)of;
    lock();
    sync_fails = fails;
    unlock();
}

void sim_end(struct sim *of)
{
    bkv_io = of->before;
    for (uint32_t i = 0; i < of->node_count; i++) {
        if (of->nodes[i].fd >= 0)
            (void)close(of->nodes[i].fd);
    }
    sim = NULL;
}

void sim_free(struct sim *of)
{
    for (size_t i = 0; i < of->count; i++)
        free(of->events[i].data);
    for (uint32_t i = 0; i < of->node_count; i++) {
        free(of->nodes[i].first);
        free(of->nodes[i].now);
    }
    free(of->events);
    free(of->nodes);
    free(of->begin);
    free(of);
}

uint32_t sim_checksum(const struct sim *of)
{
    uint32_t crc = 0;
    for (size_t i = 0; i < of->count; i++) {
        const struct event *e = &of->events[i];
        const uint64_t numbers[] = {e->kind, e->node, e->other, e->second, e->offset, e->size};
        crc = bkv_crc32c(crc, numbers, sizeof numbers);
        crc = bkv_crc32c(crc, e->name, sizeof e->name);
        crc = bkv_crc32c(crc, e->to, sizeof e->to);
        if (e->data != NULL)
            crc = bkv_crc32c(crc, e->data, (size_t)e->size);
    }
    return crc;
}

void sim_tell(const struct sim *of, size_t event, size_t last)
{
    static const char *const kinds[] = {"write", "size",   "sync",    "drop",
                                        "name",  "rename", "exchange"};
    for (size_t i = event > last ? event - last : 0; i < event; i++) {
        const struct event *e = &of->events[i];
        print_error("  %zu: %s of node %u: %s %s node %d, offset %llu, size %llu\n", i,
                    kinds[e->kind], e->node, e->name, e->to, (int)e->other,
                    (unsigned long long)e->offset, (unsigned long long)e->size);
    }
}

/* --- the disk ---------------------------------------------------------------------------- */

struct entry {
    char name[NAME_MOST];
    uint32_t node;
};

struct names {
    struct entry *entries;
    size_t count, capacity;
};

struct content {
    uint8_t *data;
    size_t size, capacity;
};

struct durable {
    struct content content;
    struct names names;
    size_t *pending; /* events since the last sync */
    size_t pending_count, pending_capacity;
};

struct sim_disk {
    const struct sim *sim;
    struct durable *nodes;
    size_t at;
};

const char *sim_policy_name(enum sim_policy policy)
{
    static const char *const names[] = {"all",  "none",    "metadata", "data",  "sectors",
                                        "torn", "garbage", "files",    "names", "mixed"};
    return names[policy];
}

bool sim_names_in_order(enum sim_policy policy)
{
    return policy != SIM_NAMES && policy != SIM_MIXED;
}

static void names_set(struct names *names, const char *name, uint32_t node)
{
    size_t i = 0;
    while (i < names->count && strcmp(names->entries[i].name, name) != 0)
        i++;
    if (i == names->count) {
        if (node == NO_NODE)
            return;
        names->entries =
            grown(names->entries, &names->capacity, names->count, sizeof *names->entries);
        (void)snprintf(names->entries[i].name, NAME_MOST, "%s", name);
        names->count++;
    }
    if (node == NO_NODE)
        names->entries[i] = names->entries[--names->count];
    else
        names->entries[i].node = node;
}

static void names_apply(struct names *names, const struct event *e)
{
    if (e->kind == EVENT_NAME) {
        names_set(names, e->name, e->other);
    } else {
        names_set(names, e->name, e->second);
        names_set(names, e->to, e->other);
    }
}

static void content_resize(struct content *c, size_t size)
{
    if (size > c->capacity) {
        c->capacity = size + size / 2;
        c->data = realloc(c->data, c->capacity);
        if (c->data == NULL)
            abort();
    }
    if (size > c->size)
        memset(c->data + c->size, 0, size - c->size);
    c->size = size;
}

static void content_apply(struct content *c, const struct event *e)
{
    if (e->kind == EVENT_SIZE) {
        content_resize(c, e->size);
        return;
    }
    if (e->offset + e->size > c->size)
        content_resize(c, e->offset + e->size);
    memcpy(c->data + e->offset, e->data, e->size);
}

struct sim_disk *sim_disk_begin(const struct sim *of)
{
    struct sim_disk *disk = calloc(1, sizeof *disk);
    assert_non_null(disk);
    disk->sim = of;
    disk->nodes = calloc(of->node_count, sizeof *disk->nodes);
    assert_non_null(disk->nodes);
    for (uint32_t i = 0; i < of->node_count; i++) {
        content_resize(&disk->nodes[i].content, of->nodes[i].first_size);
        if (of->nodes[i].first_size > 0)
            memcpy(disk->nodes[i].content.data, of->nodes[i].first, of->nodes[i].first_size);
    }
    for (size_t i = 0; i < of->begin_count; i++)
        names_apply(&disk->nodes[of->begin[i].node].names, &of->begin[i]);
    return disk;
}

static void drop_writes(const struct sim_disk *disk, struct durable *d)
{
    size_t kept = 0;
    for (size_t i = 0; i < d->pending_count; i++) {
        if (disk->sim->events[d->pending[i]].kind != EVENT_WRITE)
            d->pending[kept++] = d->pending[i];
    }
    d->pending_count = kept;
}

void sim_disk_advance(struct sim_disk *disk, size_t event)
{
    for (; disk->at < event; disk->at++) {
        const struct event *e = &disk->sim->events[disk->at];
        struct durable *d = &disk->nodes[e->node];
        if (e->kind == EVENT_DROP) {
            drop_writes(disk, d);
            continue;
        }
        if (e->kind != EVENT_SYNC) {
            d->pending =
                grown(d->pending, &d->pending_capacity, d->pending_count, sizeof *d->pending);
            d->pending[d->pending_count++] = disk->at;
            continue;
        }
        bool folder = disk->sim->nodes[e->node].is_directory;
        for (size_t i = 0; i < d->pending_count; i++) {
            const struct event *p = &disk->sim->events[d->pending[i]];
            if (folder)
                names_apply(&d->names, p);
            else
                content_apply(&d->content, p);
        }
        d->pending_count = 0;
    }
}

void sim_disk_end(struct sim_disk *disk)
{
    for (uint32_t i = 0; i < disk->sim->node_count; i++) {
        free(disk->nodes[i].content.data);
        free(disk->nodes[i].names.entries);
        free(disk->nodes[i].pending);
    }
    free(disk->nodes);
    free(disk);
}

bool sim_disk_is_unmarked(const struct sim_disk *disk, const char *name)
{
    bool unmarked = false;
    for (size_t i = 0; i < disk->at; i++) {
        const struct event *e = &disk->sim->events[i];
        if (e->kind == EVENT_DROP)
            unmarked = true;
        else if (e->kind == EVENT_NAME && e->other != NO_NODE && strcmp(e->name, name) == 0)
            unmarked = false;
    }
    return unmarked;
}

/* --- the cut ------------------------------------------------------------------------------ */

struct cut {
    const struct sim_disk *disk;
    enum sim_policy policy;
    bool cached; /* no cut: what the kernel's memory has */
    uint64_t seed;
    size_t moment; /* of names, SECTORS */
    size_t last;   /* TORN: that write */
    char **made;   /* path of each node that has one */
};

/* Nothing, everything, or anything between: the ends are where the bugs are. */
static size_t some_moment(uint64_t *seed, size_t count)
{
    uint64_t r = lab_random(seed);
    return r % 4 == 0 ? 0 : r % 4 == 1 ? count : (size_t)(lab_random(seed) % (count + 1));
}

static const struct event *pending(const struct cut *cut, const struct durable *d, size_t i)
{
    return &cut->disk->sim->events[d->pending[i]];
}

static void names_after(struct cut *cut, const struct durable *d, struct names *names)
{
    for (size_t i = 0; i < d->names.count; i++)
        names_set(names, d->names.entries[i].name, d->names.entries[i].node);
    size_t moment = some_moment(&cut->seed, d->pending_count);
    for (size_t i = 0; i < d->pending_count; i++) {
        bool kept = true;
        switch (cut->policy) {
        case SIM_NONE:
        case SIM_DATA:
            kept = false;
            break;
        case SIM_SECTORS:
            kept = d->pending[i] < cut->moment;
            break;
        case SIM_FILES:
            kept = i < moment;
            break;
        case SIM_NAMES:
        case SIM_MIXED:
            kept = lab_random(&cut->seed) % 2 == 0;
            break;
        default:
            break;
        }
        if (kept)
            names_apply(names, pending(cut, d, i));
    }
}

/* Of one sector what the first `moment` pending events have made of it. */
static void apply_to_sector(const struct cut *cut, const struct durable *d, size_t moment,
                            size_t at, struct content *c)
{
    size_t end = at + SECTOR < c->size ? at + SECTOR : c->size;
    for (size_t i = 0; i < moment; i++) {
        const struct event *e = pending(cut, d, i);
        if (e->kind == EVENT_SIZE) {
            size_t from = e->size > at ? e->size : at;
            if (from < end)
                memset(c->data + from, 0, end - from);
            continue;
        }
        size_t from = e->offset > at ? e->offset : at;
        size_t to = e->offset + e->size < end ? e->offset + e->size : end;
        if (from < to)
            memcpy(c->data + from, e->data + (from - e->offset), to - from);
    }
}

/* The size the file has after so many of the pending events. */
static size_t size_after(const struct cut *cut, const struct durable *d, size_t moment)
{
    size_t size = d->content.size;
    for (size_t i = 0; i < moment; i++) {
        const struct event *e = pending(cut, d, i);
        if (e->kind == EVENT_SIZE || e->offset + e->size > size)
            size = e->kind == EVENT_SIZE ? e->size : e->offset + e->size;
    }
    return size;
}

static void sectors(struct cut *cut, const struct durable *d, struct content *c)
{
    size_t most = d->content.size;
    for (size_t i = 0; i <= d->pending_count; i++) {
        size_t size = size_after(cut, d, i);
        most = size > most ? size : most;
    }
    size_t last = size_after(cut, d, some_moment(&cut->seed, d->pending_count));
    content_resize(c, most);
    bool *touched = calloc(most / SECTOR + 1, 1);
    for (size_t i = 0; i < d->pending_count; i++) {
        const struct event *e = pending(cut, d, i);
        size_t from = e->kind == EVENT_SIZE ? e->size : e->offset;
        size_t to = e->kind == EVENT_SIZE ? most : e->offset + e->size;
        for (size_t s = from / SECTOR; s * SECTOR < to; s++)
            touched[s] = true;
    }
    for (size_t at = 0; at < most; at += SECTOR) {
        if (touched[at / SECTOR])
            apply_to_sector(cut, d, some_moment(&cut->seed, d->pending_count), at, c);
    }
    free(touched);
    content_resize(c, last);
}

/* Bytes that were written may be anything; those beside them were not written. */
static void garbage(struct cut *cut, const struct durable *d, struct content *c)
{
    for (size_t i = 0; i < d->pending_count; i++)
        content_apply(c, pending(cut, d, i));
    for (size_t i = 0; i < d->pending_count; i++) {
        const struct event *e = pending(cut, d, i);
        if (e->kind != EVENT_WRITE)
            continue;
        for (size_t at = e->offset; at < e->offset + e->size;) {
            size_t end = (at / SECTOR + 1) * SECTOR;
            end = end < e->offset + e->size ? end : e->offset + e->size;
            bool noise = lab_random(&cut->seed) % 3 == 0;
            for (; at < end; at++) {
                if (noise && at < c->size)
                    c->data[at] = (uint8_t)lab_random(&cut->seed);
            }
        }
    }
}

static void content_after(struct cut *cut, const struct durable *d, struct content *c)
{
    content_resize(c, d->content.size);
    if (c->size > 0)
        memcpy(c->data, d->content.data, c->size);
    size_t moment = d->pending_count;
    switch (cut->policy) {
    case SIM_SECTORS:
    case SIM_MIXED:
        sectors(cut, d, c);
        return;
    case SIM_GARBAGE:
        garbage(cut, d, c);
        return;
    case SIM_METADATA:
        for (size_t i = 0; i <= d->pending_count; i++)
            content_resize(c, size_after(cut, d, i));
        return;
    case SIM_NONE:
        moment = 0;
        break;
    case SIM_FILES:
        moment = some_moment(&cut->seed, d->pending_count);
        break;
    default:
        break;
    }
    for (size_t i = 0; i < moment; i++) {
        struct event e = *pending(cut, d, i);
        if (cut->policy == SIM_TORN && d->pending[i] == cut->last) {
            e.size = lab_random(&cut->seed) % (e.size + 1);
            if (lab_random(&cut->seed) % 2 == 0) /* as the disk writes */
                e.size -= (e.offset + e.size) % SECTOR < e.size ? (e.offset + e.size) % SECTOR : 0;
        }
        content_apply(c, &e);
    }
}

/* What the process has written, whatever of it the disk has. */
static void content_cached(const struct cut *cut, uint32_t node, struct content *c)
{
    const struct node *first = &cut->disk->sim->nodes[node];
    content_resize(c, first->first_size);
    if (c->size > 0)
        memcpy(c->data, first->first, c->size);
    for (size_t i = 0; i < cut->disk->at; i++) {
        const struct event *e = &cut->disk->sim->events[i];
        if (e->node == node && (e->kind == EVENT_WRITE || e->kind == EVENT_SIZE))
            content_apply(c, e);
    }
}

static void make_file(struct cut *cut, uint32_t node, const char *to)
{
    if (cut->made[node] != NULL) {
        if (link(cut->made[node], to) != 0)
            fail_msg("link %s %s: %s", cut->made[node], to, strerror(errno));
        return;
    }
    struct content c = {.size = 0};
    if (cut->cached)
        content_cached(cut, node, &c);
    else
        content_after(cut, &cut->disk->nodes[node], &c);
    int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    size_t end = c.size; /* what was only reserved stays a hole */
    while (end > 0 && c.data[end - 1] == 0)
        end--;
    assert_int_equal(pwrite(fd, c.data, end, 0), end);
    assert_int_equal(ftruncate(fd, (off_t)c.size), 0);
    (void)close(fd);
    free(c.data);
    cut->made[node] = strdup(to);
}

static void make_folder(struct cut *cut, uint32_t node, const char *to)
{
    struct names names = {.count = 0};
    names_after(cut, &cut->disk->nodes[node], &names);
    for (size_t i = 0; i < names.count; i++) {
        char path[LAB_PATH];
        uint32_t inner = names.entries[i].node;
        lab_join(path, to, names.entries[i].name);
        if (!cut->disk->sim->nodes[inner].is_directory) {
            make_file(cut, inner, path);
        } else if (cut->made[inner] == NULL) { /* else a rename of it is half dropped */
            assert_int_equal(mkdir(path, 0700), 0);
            cut->made[inner] = strdup(path);
            make_folder(cut, inner, path);
        }
    }
    free(names.entries);
}

static struct cut cut_begin(const struct sim_disk *disk, enum sim_policy policy, uint64_t seed)
{
    struct cut cut = {.disk = disk, .policy = policy, .seed = seed, .last = SIZE_MAX};
    cut.made = calloc(disk->sim->node_count, sizeof *cut.made);
    assert_non_null(cut.made);
    cut.moment = (size_t)(lab_random(&cut.seed) % (disk->at + 1));
    if (lab_random(&cut.seed) % 2 == 0) /* most of the journal is durable: near its end */
        cut.moment = disk->at - (disk->at - cut.moment) % 16;
    for (size_t i = disk->at; i-- > 0 && cut.last == SIZE_MAX;) {
        if (disk->sim->events[i].kind == EVENT_WRITE)
            cut.last = i;
    }
    return cut;
}

static void cut_end(struct cut *cut)
{
    for (uint32_t i = 0; i < cut->disk->sim->node_count; i++)
        free(cut->made[i]);
    free(cut->made);
}

void sim_disk_cut(const struct sim_disk *disk, enum sim_policy policy, uint64_t seed,
                  const char *to)
{
    struct cut cut = cut_begin(disk, policy, seed);
    make_folder(&cut, 0, to);
    cut_end(&cut);
}

/* --- a successor -------------------------------------------------------------------------- */

static void set_first(const struct durable *from, struct node *node)
{
    free(node->first);
    node->first_size = from->content.size;
    node->first = malloc(node->first_size + 1);
    if (node->first_size > 0)
        memcpy(node->first, from->content.data, node->first_size);
}

/* The names that were durable are those at the beginning. */
static void set_first_names(struct sim *of, const struct sim_disk *disk, const uint32_t *numbers)
{
    of->begin_count = 0;
    for (uint32_t i = 0; i < disk->sim->node_count; i++) {
        const struct names *names = &disk->nodes[i].names;
        for (size_t k = 0; k < names->count; k++) {
            of->begin = grown(of->begin, &of->begin_capacity, of->begin_count, sizeof *of->begin);
            struct event *e = &of->begin[of->begin_count++];
            *e = (struct event){
                .kind = EVENT_NAME, .node = numbers[i], .other = numbers[names->entries[k].node]};
            (void)snprintf(e->name, sizeof e->name, "%s", names->entries[k].name);
        }
    }
}

static uint32_t number_in(const uint32_t *numbers, uint32_t node)
{
    return node == NO_NODE ? NO_NODE : numbers[node];
}

/* Whether the event has not been synced at this moment. */
static bool is_pending(const struct sim_disk *disk, size_t event)
{
    const struct durable *d = &disk->nodes[disk->sim->events[event].node];
    for (size_t i = 0; i < d->pending_count; i++) {
        if (d->pending[i] == event)
            return true;
    }
    return false;
}

struct sim *sim_begin_after(const struct sim_disk *disk, const char *root)
{
    struct cut all = cut_begin(disk, SIM_ALL, 0);
    all.cached = true;
    make_folder(&all, 0, root);
    struct sim *of = sim_begin(root);
    uint32_t *numbers = calloc(disk->sim->node_count, sizeof *numbers);
    assert_non_null(numbers);
    for (uint32_t i = 1; i < disk->sim->node_count; i++) {
        /* One that has no name left may still have one on the disk. */
        numbers[i] = all.made[i] != NULL ? node_of_name(AT_FDCWD, all.made[i])
                                         : node_add_unnamed(disk->sim->nodes[i].is_directory);
        set_first(&disk->nodes[i], &of->nodes[numbers[i]]);
    }
    set_first_names(of, disk, numbers);
    for (size_t i = 0; i < disk->at; i++) {
        const struct event *e = &disk->sim->events[i];
        if (!is_pending(disk, i))
            continue;
        struct event *same = append(e->kind, numbers[e->node]);
        uint32_t node = same->node;
        *same = *e;
        same->node = node;
        same->other = number_in(numbers, e->other);
        same->second = number_in(numbers, e->second);
        if (e->data != NULL) {
            same->data = malloc(e->size);
            memcpy(same->data, e->data, e->size);
        }
    }
    free(numbers);
    cut_end(&all);
    return of;
}
