/* SPDX-License-Identifier: MIT */
#include "demo_corpus.h"

#include "demo_rng.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PACKAGES_COMMAND "apt-cache dumpavail 2>/dev/null"
#define WORDS_PATH       "/usr/share/dict/words"

enum {
    RECORDS_MIN = 1000, /* fewer are no demonstration */
    /* A word's value is the text from it on, of one to this many lines. */
    WORD_LINES_MAX = 32,
    MADE_UP_RECORDS = 60000,
    MADE_UP_LINES_MAX = 40,
};

static bool write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t count = write(fd, data, size);
        if (count < 0 && errno != EINTR) {
            return false;
        }
        if (count > 0) {
            data += count;
            size -= (size_t)count;
        }
    }
    return true;
}

static bool copy_stream(int fd, FILE *stream)
{
    static char buffer[1 << 16];
    size_t count = 0;
    while ((count = fread(buffer, 1, sizeof buffer, stream)) > 0) {
        if (!write_all(fd, buffer, count)) {
            return false;
        }
    }
    return !ferror(stream);
}

/* End of the line that begins at c: behind its newline. */
static const char *line_end(const char *c, const char *end)
{
    const char *newline = memchr(c, '\n', (size_t)(end - c));
    return newline != NULL ? newline + 1 : end;
}

static bool add_record(struct corpus *corpus, size_t *capacity, const char *key, size_t key_size,
                       const char *value, size_t value_size)
{
    if (corpus->count == *capacity) {
        size_t larger = *capacity == 0 ? 4096 : *capacity * 2;
        struct corpus_record *records = realloc(corpus->records, larger * sizeof *corpus->records);
        if (records == NULL) {
            return false;
        }
        corpus->records = records;
        *capacity = larger;
    }
    corpus->records[corpus->count++] = (struct corpus_record){
        .key = key, .key_size = key_size, .value = value, .value_size = value_size};
    return true;
}

static bool parse_stanzas(struct corpus *corpus)
{
    static const char field[] = "Package: ";
    const size_t field_size = sizeof field - 1;
    const char *end = corpus->text + corpus->size;
    size_t capacity = 0;
    for (const char *c = corpus->text; c < end;) {
        const char *stanza = c;
        const char *key = NULL;
        size_t key_size = 0;
        while (c < end && *c != '\n') {
            const char *next = line_end(c, end);
            if (key == NULL && (size_t)(next - c) > field_size + 1 &&
                memcmp(c, field, field_size) == 0) {
                key = c + field_size;
                key_size = (size_t)(next - key) - (next[-1] == '\n');
            }
            c = next;
        }
        if (key != NULL &&
            !add_record(corpus, &capacity, key, key_size, stanza, (size_t)(c - stanza))) {
            return false;
        }
        while (c < end && *c == '\n') {
            c++;
        }
    }
    return true;
}

static bool parse_words(struct corpus *corpus)
{
    const char *end = corpus->text + corpus->size;
    size_t capacity = 0;
    for (const char *c = corpus->text; c < end;) {
        const char *next = line_end(c, end);
        size_t key_size = (size_t)(next - c) - (next[-1] == '\n');
        const char *value_end = next;
        for (size_t i = corpus->count % WORD_LINES_MAX; i > 0 && value_end < end; i--) {
            value_end = line_end(value_end, end);
        }
        if (key_size > 0 &&
            !add_record(corpus, &capacity, c, key_size, c, (size_t)(value_end - c))) {
            return false;
        }
        c = next;
    }
    return true;
}

static int compare_records(const void *a, const void *b)
{
    const struct corpus_record *left = a;
    const struct corpus_record *right = b;
    size_t common = left->key_size < right->key_size ? left->key_size : right->key_size;
    int order = memcmp(left->key, right->key, common);
    if (order != 0) {
        return order;
    }
    if (left->key_size != right->key_size) {
        return left->key_size < right->key_size ? -1 : 1;
    }
    return left->key < right->key ? -1 : left->key > right->key; /* in the order of the text */
}

static bool same_key(const struct corpus_record *a, const struct corpus_record *b)
{
    return a->key_size == b->key_size && memcmp(a->key, b->key, a->key_size) == 0;
}

/* Of records with the same key keep the last, as a store does. */
static void remove_duplicates(struct corpus *corpus)
{
    if (corpus->count == 0) {
        return;
    }
    qsort(corpus->records, corpus->count, sizeof *corpus->records, compare_records);
    size_t kept = 0;
    for (size_t i = 0; i < corpus->count; i++) {
        bool is_last =
            i + 1 == corpus->count || !same_key(&corpus->records[i], &corpus->records[i + 1]);
        if (is_last) {
            corpus->records[kept++] = corpus->records[i];
        }
    }
    corpus->duplicates = corpus->count - kept;
    corpus->count = kept;
}

static bool map_and_parse(struct corpus *corpus)
{
    struct stat status;
    if (fstat(corpus->fd, &status) != 0) {
        return false;
    }
    corpus->size = (size_t)status.st_size;
    if (corpus->size > 0) {
        void *text = mmap(NULL, corpus->size, PROT_READ, MAP_SHARED, corpus->fd, 0);
        if (text == MAP_FAILED) {
            return false;
        }
        corpus->text = text;
        if (!(corpus->is_words ? parse_words(corpus) : parse_stanzas(corpus))) {
            return false;
        }
    }
    remove_duplicates(corpus);
    for (size_t i = 0; i < corpus->count; i++) {
        const struct corpus_record *record = &corpus->records[i];
        corpus->record_bytes += record->key_size + record->value_size;
        if (record->value_size > corpus->value_size_max) {
            corpus->value_size_max = record->value_size;
        }
    }
    return true;
}

/* Begin with a source, in place of one that has not enough. */
static bool begin_text(struct corpus *corpus, const char *origin, bool is_words)
{
    corpus_destroy(corpus);
    corpus->fd = memfd_create("bitkv-demo-corpus", MFD_CLOEXEC);
    corpus->origin = origin;
    corpus->is_words = is_words;
    return corpus->fd >= 0;
}

static bool load_packages(struct corpus *corpus)
{
    FILE *stream = popen(PACKAGES_COMMAND, "re"); // NOLINT(cert-env33-c): nothing from outside
    bool loaded = begin_text(corpus, "apt-cache dumpavail", false) && stream != NULL &&
                  copy_stream(corpus->fd, stream) && map_and_parse(corpus) &&
                  corpus->count >= RECORDS_MIN;
    if (stream != NULL) {
        pclose(stream);
    }
    return loaded;
}

static bool load_words(struct corpus *corpus)
{
    FILE *stream = fopen(WORDS_PATH, "re");
    bool loaded = begin_text(corpus, WORDS_PATH, true) && stream != NULL &&
                  copy_stream(corpus->fd, stream) && map_and_parse(corpus) &&
                  corpus->count >= RECORDS_MIN;
    if (stream != NULL) {
        fclose(stream);
    }
    return loaded;
}

/* Stanzas with a text of hexadecimal numbers, of as varied a length as real ones. */
static void write_made_up(FILE *stream)
{
    struct rng rng = {.state = 1};
    for (int i = 0; i < MADE_UP_RECORDS; i++) {
        fprintf(stream, "Package: made-up-%d\nDescription: not a real package\n", i);
        for (uint64_t lines = rng_below(&rng, MADE_UP_LINES_MAX); lines > 0; lines--) {
            fprintf(stream, " %016jx %016jx\n", (uintmax_t)rng_next(&rng),
                    (uintmax_t)rng_next(&rng));
        }
        fputc('\n', stream);
    }
}

static bool load_made_up(struct corpus *corpus)
{
    if (!begin_text(corpus, "made-up data", false)) {
        return false;
    }
    int fd = dup(corpus->fd);
    FILE *stream = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (stream == NULL) {
        return false;
    }
    write_made_up(stream);
    return fclose(stream) == 0 && map_and_parse(corpus);
}

bool corpus_load(struct corpus *corpus, bool words)
{
    memset(corpus, 0, sizeof *corpus);
    corpus->fd = -1;
    return (!words && load_packages(corpus)) || load_words(corpus) || load_made_up(corpus);
}

bool corpus_attach(struct corpus *corpus, int fd, bool is_words)
{
    *corpus = (struct corpus){.fd = fd, .is_words = is_words, .origin = "the parent"};
    return map_and_parse(corpus);
}

void corpus_destroy(struct corpus *corpus)
{
    if (corpus->text != NULL) {
        munmap((void *)(uintptr_t)corpus->text, corpus->size);
    }
    if (corpus->fd >= 0) {
        close(corpus->fd);
    }
    free(corpus->records); // NOLINT(clang-analyzer-unix.Malloc): cleared below, not freed twice
    corpus->text = NULL;
    corpus->records = NULL;
    corpus->count = 0;
    corpus->fd = -1;
}
