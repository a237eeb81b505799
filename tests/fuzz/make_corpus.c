/* SPDX-License-Identifier: MIT */
/*
 * Makes the seeds of tests/fuzz/corpus: `fuzz_make_corpus tests/fuzz/corpus`.
 * They are of one database id, so the same come out each time, but for what
 * names the time. To be run after a change of a format.
 */
#include "base/bytes.h"
#include "damage/lab.h"
#include "fuzz/fuzz.h"
#include "fuzz/names.h"
#include "log/format.h"
#include "log/record.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define M (&lab_manifest_2)

static const char *corpus;

/* --- a seed in the making ------------------------------------------------------------- */

static uint8_t seed[1u << 20];
static size_t seed_size;

static void add(const void *data, size_t size)
{
    FUZZ_CHECK(size <= sizeof seed - seed_size, "too large");
    if (size > 0)
        memcpy(seed + seed_size, data, size);
    seed_size += size;
}

static void add_u8(unsigned byte)
{
    uint8_t b = (uint8_t)byte;
    add(&b, 1);
}

static void add_u16(size_t number)
{
    add_u8(number & 0xff);
    add_u8((unsigned)(number >> 8) & 0xff);
}

/* As chunks; a stretch of zeros ends one if that saves anything. */
static void add_file(unsigned index, const uint8_t *data, size_t size)
{
    size_t at = 0;
    do {
        size_t bytes = 0;
        size_t zeros = 0;
        while (at + bytes < size && bytes < 60000) {
            zeros = 0;
            while (at + bytes + zeros < size && data[at + bytes + zeros] == 0 && zeros < 400000)
                zeros++;
            if (zeros >= 24)
                break;
            bytes++;
            zeros = 0;
        }
        zeros &= ~(size_t)7;
        add_u8(index);
        add_u16(bytes);
        add_u16(zeros / 8);
        add(data + at, bytes);
        at += bytes + zeros;
    } while (at < size);
}

static void save(const char *target, const char *name)
{
    char path[LAB_PATH];
    (void)snprintf(path, sizeof path, "%s/%s", corpus, target);
    (void)mkdir(path, 0777);
    (void)snprintf(path, sizeof path, "%s/%s/%s", corpus, target, name);
    FILE *file = fopen(path, "wb");
    FUZZ_CHECK(file != NULL, "%s: %s", path, strerror(errno));
    FUZZ_CHECK(fwrite(seed, 1, seed_size, file) == seed_size && fclose(file) == 0, "%s", path);
    seed_size = 0;
}

static void save_text(const char *target, const char *name, unsigned flags, const char *text)
{
    add_u8(flags);
    add(text, strlen(text));
    save(target, name);
}

/* --- logs --------------------------------------------------------------------------------- */

static void batch_header(struct lab_log *log, uint64_t sequence, uint32_t records,
                         uint32_t peer_partition, uint32_t peer_records, uint64_t peer_sequence)
{
    uint8_t value[BKV_BATCH_FIXED + BKV_BATCH_PEER];
    bkv_put32(value, records);
    bkv_put32(value + 4, 1);
    bkv_put32(value + 8, peer_partition);
    bkv_put32(value + 12, peer_records);
    bkv_put64(value + 16, peer_sequence);
    (void)lab_log_raw(log, BKV_RECORD_BATCH, sequence, NULL, 0, value, sizeof value);
}

/* All kinds of records; two segments of it make a partition. */
static void fill(struct lab_log *log, uint64_t sequence, bool batch)
{
    uint32_t p = log->partition;
    char key[4][32];
    unsigned n = 0;
    for (int i = 0; i < 4; i++)
        n = lab_key(key[i], M, p, "key", n) + 1;
    (void)lab_log_put(log, sequence++, key[0], "first");
    (void)lab_log_put(log, sequence++, key[1], "");
    (void)lab_log_delete(log, sequence++, key[0]);
    (void)lab_log_mark(log, sequence++, log->id, log->size);
    (void)lab_log_put_until(log, sequence++, UINT64_C(9000000000000), key[2], "with a deadline");
    (void)lab_log_put_until(log, sequence++, 1, key[3], "long gone");
    if (batch) {
        batch_header(log, sequence, 1, 1 - p, 1, sequence);
        (void)lab_log_put(log, sequence + 1, key[0], "of a batch");
    }
}

static void crashed(struct lab_image *image, bool hints, bool batch)
{
    lab_add_manifest(image, M);
    for (uint32_t p = 0; p < 2; p++) {
        struct lab_log log;
        lab_log_begin(&log, M, p, 1, 1);
        fill(&log, 1, false);
        lab_log_end(&log, image);
        if (hints)
            lab_add_hint(image, M, p, 1);
        lab_log_begin(&log, M, p, 2, 7);
        fill(&log, 7, batch);
        lab_log_bytes(&log, NULL, 64);
        lab_log_end(&log, image);
    }
}

/* Opened by the engine, written to, closed. */
static void by_engine(struct lab_image *image, unsigned puts, size_t size, bool compact)
{
    char path[LAB_PATH];
    lab_path(path, "corpus");
    lab_image_write(image, path);
    bitkv *db;
    FUZZ_CHECK(lab_open(&db, path, (struct lab_open){.by_hand = true}) == BITKV_OK, "%s",
               bitkv_error_context());
    char *value = malloc(size + 1);
    FUZZ_CHECK(value != NULL, "out of memory");
    memset(value, 'v', size);
    value[size] = '\0';
    for (unsigned i = 0; i < puts; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "engine-%u", i % 5);
        lab_put(db, key, value);
    }
    free(value);
    if (compact)
        FUZZ_CHECK(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL) == BITKV_OK, "%s",
                   bitkv_error_context());
    FUZZ_CHECK(bitkv_close(db) == BITKV_OK, "%s", bitkv_error_context());
    lab_image_free(image);
    lab_image_read(image, path, 64);
    lab_remove(path);
}

/* --- seeds by target ------------------------------------------------------------------------ */

static void add_image(const struct lab_image *image)
{
    for (size_t i = 0; i < image->count; i++) {
        for (unsigned n = 0; n < NAMES; n++) {
            if (strcmp(names[n].name, image->files[i].name) == 0)
                add_file(n, image->files[i].data, image->files[i].size);
        }
    }
}

static void save_directory(const char *name, const struct lab_image *image, unsigned flags,
                           unsigned visits)
{
    add_u8(flags);
    add_u8(visits);
    add_image(image);
    save("directory", name);
}

/* Each bit of one byte of each file, one after another, would be too many: one. */
static void damage(struct lab_image *image, const char *name, size_t at)
{
    struct lab_file *file = lab_image_find(image, name);
    file->data[at % file->size] ^= 0x10;
}

/* In the KeyDir's image the first key gets a place 8 bytes further on, where no
 * record begins: compaction took the file away and left the key pointing at it. */
static void stray(struct lab_image *image)
{
    struct lab_file *file = lab_image_find(image, "partition_0/keydir.ckp");
    size_t at = 112 + 8; /* slots of two words: the second has the location */
    while (bkv_get64(file->data + at) == 0)
        at += 16;
    bkv_put64(file->data + at + 8, bkv_get64(file->data + at + 8) + (1u << 12));
}

static void directories(void)
{
    static struct lab_image image;
    save_directory("nothing", &image, 0, 255);
    lab_add_manifest(&image, M);
    save_directory("empty", &image, 0, 255);
    lab_image_free(&image);

    crashed(&image, false, false);
    save_directory("crashed", &image, 0, 255);
    save_directory("crashed-mended", &image, 31, 255);
    damage(&image, "partition_0/data_1.db", 70);
    save_directory("crashed-damaged", &image, 0, 255);
    save_directory("crashed-damaged-strict", &image, 64, 3);
    lab_image_free(&image);

    crashed(&image, false, true);
    damage(&image, "partition_0/data_2.db", 20);
    damage(&image, "partition_1/data_1.db", 3);
    save_directory("headless", &image, 0, 255);
    lab_image_find(&image, "partition_0/data_1.db")->size -= 50;
    lab_image_find(&image, "partition_1/data_2.db")->size -= 90;
    save_directory("headless-torn", &image, 0, 255);
    lab_image_free(&image);

    crashed(&image, true, true);
    save_directory("batch", &image, 0, 255);
    save_directory("batch-pwrite", &image, 32, 255);
    save_directory("batch-mended", &image, 4, 13);
    lab_image_drop(&image, "partition_1/data_2.db");
    save_directory("batch-half", &image, 0, 13);
    by_engine(&image, 7, 20, false);
    save_directory("closed", &image, 0, 255);
    save_directory("closed-mended", &image, 31, 255);
    damage(&image, "partition_0/hint_1.ht", 125);
    damage(&image, "partition_1/keydir.ckp", 300);
    save_directory("closed-damaged", &image, 0, 255);
    save_directory("closed-lying", &image, 8 | 16, 255);
    lab_image_free(&image);

    crashed(&image, true, true);
    by_engine(&image, 12, 20, false);
    stray(&image);
    save_directory("stray-in-checkpoint", &image, 16, 8);
    lab_image_free(&image);

    crashed(&image, true, false);
    by_engine(&image, 40, 3000, false);
    for (size_t i = 0; i < image.count;) { /* whose log has to be read */
        if (strstr(image.files[i].name, "keydir.ckp") != NULL)
            lab_image_drop(&image, image.files[i].name);
        else
            i++;
    }
    /* Values of zeros in place of what fills the corpus: their checksums are mended. */
    for (size_t i = 0; i < image.count; i++) {
        for (size_t at = 0; at < image.files[i].size; at++) {
            if (image.files[i].data[at] == 'v')
                image.files[i].data[at] = 0;
        }
    }
    save_directory("segments-mended", &image, 4, 255);
    lab_image_free(&image);

    crashed(&image, true, true);
    by_engine(&image, 12, 20, true);
    save_directory("compacted", &image, 0, 255);
    save_directory("compacted-mended", &image, 31, 8);
    lab_image_free(&image);
}

static void parts(void)
{
    static struct lab_image image;
    crashed(&image, true, true);
    const struct lab_file *file = lab_image_find(&image, "MANIFEST");
    for (unsigned flags = 0; flags < 2; flags++) {
        add_u8(flags);
        add(file->data, file->size);
        save("manifest", flags == 0 ? "sound" : "mended");
    }
    add(file->data, 50);
    save("manifest", "short");

    file = lab_image_find(&image, "partition_0/hint_1.ht");
    for (unsigned flags = 0; flags < 2; flags++) {
        add_u8(flags);
        add_u16(lab_image_find(&image, "partition_0/data_1.db")->size);
        add_u16(0);
        add(file->data, file->size);
        save("hint", flags == 0 ? "sound" : "mended");
    }
    by_engine(&image, 7, 20, false);
    file = lab_image_find(&image, "partition_0/keydir.ckp");
    for (unsigned flags = 0; flags < 2; flags++) {
        add_u8(flags);
        add_file(0, file->data, file->size);
        save("checkpoint", flags == 0 ? "sound" : "mended");
    }
    lab_image_free(&image);

    struct lab_log log;
    lab_log_begin(&log, M, 1, 5, 1);
    fill(&log, 1, true);
    for (unsigned flags = 0; flags < 4; flags += 3) {
        add_u8(flags);
        add_file(0, log.data, log.size);
        save("segment", flags == 0 ? "sound" : "mended");
    }
    lab_log_bytes(&log, "torn", 4);
    log.data[100] ^= 1;
    add_u8(0);
    add_file(0, log.data, log.size);
    save("segment", "torn");
    free(log.data);
}

static void texts(void)
{
    save_text("load", "tsv", 1,
              "key\tvalue\nk\\x00\\t\\n\\\\\tv\\xff\n\n# no\nlast\tx\texpires=1700000000000");
    save_text("load", "tsv-bad", 1, "no tab\na\tb\tc\nk\t\\q\n\tempty\nk\t\\x1\n");
    save_text("load", "jsonl", 2,
              "{\"key\": \"k\", \"value\": \"v\"}\n"
              "{\"key_base64\": \"AAEC/w==\", \"value_base64\": \"\", \"deadline_ms\": 17}\n"
              "{\"key\": \"n\", \"value\": {\"a\": [1.10, \"\\u00e9\\\"]\", null], \"b\":{}}}\n");
    save_text("load", "jsonl-whole", 2 | 8, "{\"key\":\"k\", \"x\" : [ 1 , 2 ]}\n{\"key\": 5}\n");
    save_text("load", "jsonl-field", 2 | 16, "{\"key\":\"k\",\"value\":12345678901234567890}\n");
    save_text("load", "jsonl-template", 2 | 4, "{\"key\":\"k\",\"Package\":\"p\",\"value\":1}\n");
    save_text("load", "jsonl-bad", 2, "{\"key\":\n[]\n{\"key\":\"\",\"value\":1}\n{}\n\xff\n");
    save_text("load", "deb822", 3,
              "Package: a\nVersion: 1\nDescription: x\n more\n .\n\nPackage: b\n# c\nKey:\n");
    save_text("load", "deb822-template", 3 | 4, "Package: a\nkey: 1\n\n\nVersion: 2\n");
    save_text("load", "guess-tsv", 0, "# x\na:b\tc\n");
    save_text("load", "guess-jsonl", 0, " { \"key\" : \"a\", \"value\" : \"b\" }\n");
    save_text("load", "guess-deb822", 0, "A: b\n");
    save_text("load", "guess-none", 0, "?\n");
}

static void add_record(const struct bkv_record *record, unsigned flags)
{
    uint8_t header[BKV_RECORD_HEADER];
    uint64_t size = bkv_record_size_of(record);
    add_u8(flags);
    add_u8(8);
    add_u8(0); /* at 64 */
    add_u8(77);
    add_u8(0);
    bkv_record_begin(header, record);
    add(header, sizeof header);
    for (uint64_t i = sizeof header; i < size; i++)
        add_u8((unsigned)i);
}

static void records(void)
{
    static const struct {
        const char *name;
        struct bkv_record record;
    } all[] = {
        {"put", {.type = BKV_RECORD_PUT, .key_size = 3, .value_size = 30, .sequence = 7}},
        {"empty-value", {.type = BKV_RECORD_PUT, .key_size = 1, .sequence = 8}},
        {"large", {.type = BKV_RECORD_PUT, .key_size = 9, .value_size = 2100, .sequence = 9}},
        {"delete", {.type = BKV_RECORD_DELETE, .key_size = 3, .sequence = 10}},
        {"expires",
         {.type = BKV_RECORD_PUT, .flags = BKV_RECORD_EXPIRES, .key_size = 2, .value_size = 5}},
        {"mark", {.type = BKV_RECORD_MARK, .value_size = BKV_MARK_SIZE, .sequence = 11}},
        {"batch", {.type = BKV_RECORD_BATCH, .value_size = BKV_BATCH_FIXED + BKV_BATCH_PEER}},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char name[32];
        add_record(&all[i].record, 1);
        save("record", all[i].name);
        (void)snprintf(name, sizeof name, "%s-unmended", all[i].name);
        add_record(&all[i].record, 0);
        save("record", name);
    }
}

static void file_names(void)
{
    static const char *const all[] = {
        "partition_0",      "partition_17", "data_1.db",      "hint_9.ht",   "data_12.db.tmp",
        "hint_3.ht.tmp",    "keydir.ckp",   "keydir.ckp.tmp", "reserve.tmp", "data_01.db",
        "data_99999999.db", "sync_failed",  "durable",        "durable.tmp"};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        add(all[i], strlen(all[i]));
        save("name", all[i]);
    }
}

static void save_position(const char *name, unsigned flags, uint64_t first, uint64_t second,
                          unsigned zeros)
{
    uint8_t bytes[52] = "BKVP";
    bkv_put32(bytes + 4, 1);
    memcpy(bytes + 8, M->database_id, 16);
    bkv_put32(bytes + 24, M->partitions);
    bkv_put64(bytes + 32, first);
    bkv_put64(bytes + 40, second);
    add_u8(flags);
    add(bytes, sizeof bytes);
    for (unsigned i = 0; i < zeros; i++)
        add_u8(0);
    save("position", name);
}

/* Of the database in fuzz_position.c. */
static void positions(void)
{
    save_position("retained", 3, 50, 60, 0);
    save_position("behind", 3, 1, 60, 0);
    save_position("beyond", 3, 50, 1000000, 0);
    save_position("last-number", 3, 50, UINT64_MAX, 0);
    save_position("long", 3, 50, 60, 8);
    save_position("bad-checksum", 2, 50, 60, 0);
    save_position("as-given", 1, 50, 60, 0);
    save("position", "nothing");
}

static void codings(void)
{
    save_text("coding", "bytes", 0, "any \xff");
    save_text("coding", "hex", 1, "00ff7Fa0");
    save_text("coding", "hex-odd", 1, "012");
    save_text("coding", "base64", 2, "AAEC/w==");
    save_text("coding", "base64-unpadded", 2, "AAEC/w");
    save_text("coding", "base64-stray-bits", 2, "AAF=");
    save_text("coding", "escape", 3, "a\\t\\n\\r\\\\\\x00\xc3\xa9");
    save_text("coding", "escape-unknown", 3, "\\q");
    save_text("coding", "escape-surrogate", 3, "\xed\xa0\x80");
    save_text("coding", "template", 4, "{Package}/{{x}}{Version}");
    save_text("coding", "template-open", 4, "a{b");
    save_text("coding", "template-no-field", 4, "ab");
}

static void options(void)
{
    bitkv_options all;
    bitkv_options_init(&all);
    for (unsigned flags = 0; flags < 2; flags++) {
        add_u8(flags);
        add_u16(flags == 0 ? 40 : sizeof all);
        add((const uint8_t *)&all + sizeof(size_t), sizeof all - sizeof(size_t));
        save("options", flags == 0 ? "short" : "defaults");
    }
    add_u8(0);
    add_u16(sizeof all + 8);
    save("options", "longer-than-known");
}

static void calls(void)
{
    for (unsigned i = 0; i < 12; i++) {
        uint64_t state = i;
        add_u8(i);
        size_t size = 40u << i % 4;
        for (size_t n = 0; n < size; n++)
            add_u8((unsigned)lab_random(&state));
        char name[32];
        (void)snprintf(name, sizeof name, "random-%u", i);
        save("api", name);
    }
    save("api", "nothing");
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        (void)fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return EXIT_FAILURE;
    }
    corpus = argv[1];
    (void)mkdir(corpus, 0777);
    lab_sync_off();
    directories();
    parts();
    texts();
    records();
    file_names();
    positions();
    codings();
    options();
    calls();
    return EXIT_SUCCESS;
}
