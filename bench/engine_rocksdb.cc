/* SPDX-License-Identifier: MIT */
/*
 * RocksDB, as rocksdb/options.h and the wiki ("Setup Options and Basic
 * Tuning", "RocksDB Bloom Filter", "Data Block Hash Index") advise for point
 * lookups: OptimizeForPointLookup() (hash index in the data blocks, Bloom
 * filter of 10 bits, Bloom filter and whole-key filtering in the memtable)
 * with a block cache that holds the data, IncreaseParallelism(), all files
 * kept open, no compression (values here are made not to compress). Files are
 * in the page cache, so allow_mmap_reads without checksums of every read is
 * faster than the block cache, here by a tenth. The log is written without
 * sync, so a put survives the process.
 *
 * `rocksdb-plain` (not run unless asked for) is the set-up of the wiki's
 * "In Memory Workload Performance Benchmarks" and of the post "PlainTable - A
 * New File Format": hashed skip lists as memtable, PlainTable, mmap. It reads
 * about twice as fast and costs what the format costs: files of at most 2 GiB
 * that must be in memory, no checksums, no concurrent memtable writes, scans
 * by prefix only.
 */
#include "engine.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/memtablerep.h>
#include <rocksdb/options.h>
#include <rocksdb/slice_transform.h>
#include <rocksdb/table.h>
#include <rocksdb/version.h>

namespace
{

struct Db {
    std::unique_ptr<rocksdb::DB> db;
    rocksdb::ColumnFamilyHandle *family = nullptr;
    rocksdb::WriteOptions write;
    rocksdb::ReadOptions read;
};

struct Session {
    Db *db;
    rocksdb::PinnableSlice value;
};

int Fail(const char *what, const rocksdb::Status &status)
{
    return bench_fail("%s: %s", what, status.ToString().c_str());
}

rocksdb::Slice Slice(const void *data, size_t size)
{
    return rocksdb::Slice(static_cast<const char *>(data), size);
}

const char *Version(void)
{
    static const std::string version = rocksdb::GetRocksVersionAsString(true);

    return version.c_str();
}

void *OpenWith(const struct bench_setup *setup, const rocksdb::Options &options)
{
    auto db = std::make_unique<Db>();
    rocksdb::DB *handle = nullptr;

    const rocksdb::Status status = rocksdb::DB::Open(options, setup->directory, &handle);
    if (!status.ok()) {
        (void)Fail("DB::Open", status);
        return nullptr;
    }
    db->db.reset(handle);
    db->family = handle->DefaultColumnFamily();
    db->read.verify_checksums = false;
    return db.release();
}

rocksdb::Options CommonOptions()
{
    rocksdb::Options options;

    options.create_if_missing = true;
    options.IncreaseParallelism(2);
    options.compression = rocksdb::kNoCompression;
    options.max_open_files = -1;
    options.allow_mmap_reads = true;
    return options;
}

void *Open(const struct bench_setup *setup)
{
    rocksdb::Options options = CommonOptions();

    options.OptimizeForPointLookup((setup->keys * (setup->key_size + setup->value_size) * 2 >> 20) +
                                   64);
    return OpenWith(setup, options);
}

void *OpenPlain(const struct bench_setup *setup)
{
    rocksdb::Options options = CommonOptions();
    rocksdb::PlainTableOptions table;

    table.user_key_len = static_cast<uint32_t>(setup->key_size);
    options.table_factory.reset(rocksdb::NewPlainTableFactory(table));
    options.prefix_extractor.reset(rocksdb::NewFixedPrefixTransform(setup->key_size));
    options.memtable_factory.reset(rocksdb::NewHashSkipListRepFactory(setup->keys));
    options.allow_concurrent_memtable_write = false;
    return OpenWith(setup, options);
}

int Close(void *opaque)
{
    const std::unique_ptr<Db> db(static_cast<Db *>(opaque));
    const rocksdb::Status status = db->db->Close();

    return status.ok() ? BENCH_OK : Fail("DB::Close", status);
}

void *SessionBegin(void *opaque)
{
    return new Session{static_cast<Db *>(opaque), rocksdb::PinnableSlice()};
}

void SessionEnd(void *opaque)
{
    delete static_cast<Session *>(opaque);
}

int Put(void *opaque, const void *key, size_t key_size, const void *value, size_t value_size)
{
    auto *session = static_cast<Session *>(opaque);
    Db *db = session->db;
    const rocksdb::Status status =
        db->db->Put(db->write, db->family, Slice(key, key_size), Slice(value, value_size));

    return status.ok() ? BENCH_OK : Fail("DB::Put", status);
}

int Get(void *opaque, const void *key, size_t key_size, const void **value, size_t *value_size)
{
    auto *session = static_cast<Session *>(opaque);
    Db *db = session->db;

    session->value.Reset();
    const rocksdb::Status status =
        db->db->Get(db->read, db->family, Slice(key, key_size), &session->value);
    if (status.IsNotFound())
        return BENCH_ABSENT;
    if (!status.ok())
        return Fail("DB::Get", status);
    *value = session->value.data();
    *value_size = session->value.size();
    return BENCH_OK;
}

int Del(void *opaque, const void *key, size_t key_size)
{
    auto *session = static_cast<Session *>(opaque);
    Db *db = session->db;
    const rocksdb::Status status = db->db->Delete(db->write, db->family, Slice(key, key_size));

    return status.ok() ? BENCH_OK : Fail("DB::Delete", status);
}

int SetSynced(void *opaque, bool on)
{
    auto *db = static_cast<Db *>(opaque);
    const rocksdb::Status status = db->db->SyncWAL();

    db->write.sync = on;
    return status.ok() ? BENCH_OK : Fail("DB::SyncWAL", status);
}

void Settle(void *opaque)
{
    auto *db = static_cast<Db *>(opaque);
    static const char *const properties[] = {
        "rocksdb.num-running-flushes", "rocksdb.num-running-compactions",
        "rocksdb.compaction-pending", "rocksdb.mem-table-flush-pending"};

    for (int i = 0, still = 0; i < 6000 && still < 4; i++) {
        uint64_t busy = 0;

        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        for (const char *property : properties) {
            uint64_t value = 0;

            if (db->db->GetIntProperty(property, &value))
                busy += value;
        }
        still = busy == 0 ? still + 1 : 0;
    }
}

/* Without verifying checksums, as gets here; read ahead for nothing: it is mapped. */
int Scan(void *opaque, bool keys_only, struct bench_sums *sums)
{
    auto *db = static_cast<Db *>(opaque);
    rocksdb::ReadOptions read = db->read;

    read.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> it(db->db->NewIterator(read));
    for (it->SeekToFirst(); it->Valid(); it->Next())
        bench_sums_add(sums, it->key().data(), keys_only ? nullptr : it->value().data());
    return it->status().ok() ? BENCH_OK : Fail("Iterator", it->status());
}

} // namespace

const struct bench_engine bench_engine_rocksdb = {
    /* name */ "rocksdb",
    /* title */ "RocksDB",
    /* document */ "rocksdb/options.h and the wiki: Setup Options and Basic Tuning",
    /* configuration */
    "OptimizeForPointLookup with a block cache larger than the data, IncreaseParallelism(2), "
    "max_open_files -1, allow_mmap_reads, no compression, WAL on; gets into a PinnableSlice",
    /* durability */ "process death: the WAL is written before the put returns",
    /* synced */ "WriteOptions::sync",
    /* checksum */ "none",
    /* only_if_named */ false,
    /* stores_nothing */ false,
    Version,
    Open,
    Close,
    SessionBegin,
    SessionEnd,
    Put,
    Get,
    Del,
    SetSynced,
    Settle,
    /* usage */ nullptr,
    Scan,
};

const struct bench_engine bench_engine_rocksdb_plain = {
    /* name */ "rocksdb-plain",
    /* title */ "RocksDB, plain",
    /* document */ "the wiki: In Memory Workload Performance Benchmarks",
    /* configuration */
    "PlainTable, hashed skip lists as memtable, IncreaseParallelism(2), max_open_files -1, "
    "allow_mmap_reads, no compression, WAL on; gets into a PinnableSlice",
    /* durability */ "process death: the WAL is written before the put returns",
    /* synced */ "WriteOptions::sync",
    /* checksum */ "none",
    /* only_if_named */ true,
    /* stores_nothing */ false,
    Version,
    OpenPlain,
    Close,
    SessionBegin,
    SessionEnd,
    Put,
    Get,
    Del,
    SetSynced,
    Settle,
    /* usage */ nullptr,
    /* scan: by prefix only */ nullptr,
};
