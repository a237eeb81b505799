/* SPDX-License-Identifier: MIT */
#include "reader.h"

#include "interrupt.h"

#include <bitkv.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A byte takes six characters at worst (\u00XX in JSON); beyond that, no record can be right. */
#define RECORD_BYTES_MAX ((size_t)6 * ((size_t)BITKV_VALUE_SIZE_MAX + BITKV_KEY_SIZE_MAX) + 65536)

enum {
    BUFFER_BYTES = 1 << 20,
    READ_BYTES_MIN = 1 << 16,
};

/* read() that goes on after a signal, unless it is one that asks us to stop. */
static ssize_t read_some(int fd, void *buffer, size_t size)
{
    for (;;) {
        ssize_t count = read(fd, buffer, size);
        if (count >= 0 || errno != EINTR || interrupted()) {
            return count;
        }
    }
}

void reader_init(struct reader *reader, int fd)
{
    *reader = (struct reader){.fd = fd};
}

void reader_destroy(struct reader *reader)
{
    free(reader->buffer);
    *reader = (struct reader){.fd = -1};
}

void reader_begin(struct reader *reader)
{
    reader->begin = reader->next;
}

char *reader_record(struct reader *reader)
{
    return reader->buffer + reader->begin;
}

size_t reader_record_size(const struct reader *reader)
{
    return reader->next - reader->begin;
}

/* Room for a read: by moving the record to the front where that is cheap, else by growing. Each
 * byte is moved at most once for every capacity / 2 bytes that are read. */
static int make_room(struct reader *reader)
{
    if (reader->capacity - reader->end >= READ_BYTES_MIN) {
        return 0;
    }
    size_t used = reader->end - reader->begin;
    if (reader->begin > 0 && used <= reader->capacity / 2) {
        memmove(reader->buffer, reader->buffer + reader->begin, used);
        reader->next -= reader->begin;
        reader->end -= reader->begin;
        reader->begin = 0;
        return 0;
    }
    if (reader->capacity >= RECORD_BYTES_MAX) {
        errno = EFBIG;
        return -1;
    }
    size_t capacity = reader->capacity == 0 ? BUFFER_BYTES : reader->capacity * 2;
    char *buffer = realloc(reader->buffer, capacity);
    if (buffer == NULL) {
        return -1;
    }
    reader->buffer = buffer;
    reader->capacity = capacity;
    return 0;
}

/* 1: more bytes; 0: end; -1: errno. */
static int fill(struct reader *reader)
{
    if (reader->at_end) {
        return 0;
    }
    if (make_room(reader) != 0) {
        return -1;
    }
    ssize_t count =
        read_some(reader->fd, reader->buffer + reader->end, reader->capacity - reader->end);
    if (count < 0) {
        return -1;
    }
    reader->at_end = count == 0;
    reader->end += (size_t)count;
    return count > 0;
}

enum reader_result reader_line(struct reader *reader, size_t *offset, size_t *size)
{
    size_t searched = 0; /* of the line, to look at each byte once */
    for (;;) {
        size_t available = reader->end - reader->next;
        const char *start = available > 0 ? reader->buffer + reader->next : NULL;
        const char *newline =
            available > searched ? memchr(start + searched, '\n', available - searched) : NULL;
        if (newline == NULL) {
            searched = available;
            int more = fill(reader);
            if (more > 0) {
                continue;
            }
            if (more < 0) {
                return READER_FAILED;
            }
            if (available == 0) {
                return READER_END;
            }
        }
        *offset = reader->next - reader->begin;
        *size = newline != NULL ? (size_t)(newline - start) : available;
        size_t consumed = *size + (newline != NULL);
        reader->next += consumed;
        reader->bytes += consumed;
        reader->line++;
        return READER_LINE;
    }
}

enum reader_result reader_peek(struct reader *reader, const char **text, size_t *size)
{
    while (reader->end - reader->next < READ_BYTES_MIN) {
        int more = fill(reader);
        if (more < 0) {
            return READER_FAILED;
        }
        size_t available = reader->end - reader->next;
        if (more == 0 || memchr(reader->buffer + reader->next, '\n', available) != NULL) {
            break;
        }
    }
    *text = reader->buffer + reader->next;
    *size = reader->end - reader->next;
    return *size > 0 ? READER_LINE : READER_END;
}

void *read_whole(int fd, size_t size_max, size_t *size)
{
    struct stat status;
    size_t capacity = READ_BYTES_MIN;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
        if ((uintmax_t)status.st_size > size_max) {
            errno = EFBIG;
            return NULL;
        }
        capacity = (size_t)status.st_size + 1; /* one more, to see the end without growing */
    }
    char *data = malloc(capacity);
    size_t used = 0;
    while (data != NULL) {
        ssize_t count = read_some(fd, data + used, capacity - used);
        if (count == 0) {
            *size = used;
            return data;
        }
        if (count > 0) {
            used += (size_t)count;
        }
        if (count < 0 || used > size_max) {
            int error = count < 0 ? errno : EFBIG;
            free(data);
            errno = error;
            return NULL;
        }
        if (used == capacity) {
            capacity *= 2;
            char *larger = realloc(data, capacity);
            if (larger == NULL) {
                free(data);
            }
            data = larger;
        }
    }
    errno = ENOMEM;
    return NULL;
}
