/* SPDX-License-Identifier: MIT */
/*
 * LevelDB, as leveldb/options.h and its doc/index.md ("Performance") advise: a
 * block cache that holds the data, a Bloom filter of 10 bits a key, a larger
 * write buffer for bulk loads (16 MiB: with more, lookups in it slow down what
 * loading gains), larger files, no compression (values here are made not to
 * compress). sync=false: "if it is just the process that crashes,
 * no writes will be lost".
 */
#include "engine.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include <leveldb/cache.h>
#include <leveldb/db.h>
#include <leveldb/filter_policy.h>
#include <leveldb/write_batch.h>

namespace
{

struct Db {
    std::unique_ptr<leveldb::Cache> cache;
    std::unique_ptr<const leveldb::FilterPolicy> filter;
    std::unique_ptr<leveldb::DB> db;
    leveldb::WriteOptions write;
};

struct Session {
    Db *db;
    std::string value;
};

int Fail(const char *what, const leveldb::Status &status)
{
    return bench_fail("%s: %s", what, status.ToString().c_str());
}

leveldb::Slice Slice(const void *data, size_t size)
{
    return leveldb::Slice(static_cast<const char *>(data), size);
}

const char *Version(void)
{
    static const std::string version =
        std::to_string(leveldb::kMajorVersion) + "." + std::to_string(leveldb::kMinorVersion);

    return version.c_str();
}

void *Open(const struct bench_setup *setup)
{
    auto db = std::make_unique<Db>();
    leveldb::Options options;
    leveldb::DB *handle = nullptr;

    db->cache.reset(leveldb::NewLRUCache(setup->keys * (setup->key_size + setup->value_size) * 2 +
                                         (size_t{64} << 20)));
    db->filter.reset(leveldb::NewBloomFilterPolicy(10));
    options.create_if_missing = true;
    options.block_cache = db->cache.get();
    options.filter_policy = db->filter.get();
    options.write_buffer_size = size_t{16} << 20;
    options.max_file_size = size_t{32} << 20;
    options.compression = leveldb::kNoCompression;
    const leveldb::Status status = leveldb::DB::Open(options, setup->directory, &handle);
    if (!status.ok()) {
        (void)Fail("DB::Open", status);
        return nullptr;
    }
    db->db.reset(handle);
    return db.release();
}

int Close(void *opaque)
{
    delete static_cast<Db *>(opaque);
    return BENCH_OK;
}

void *SessionBegin(void *opaque)
{
    return new Session{static_cast<Db *>(opaque), std::string()};
}

void SessionEnd(void *opaque)
{
    delete static_cast<Session *>(opaque);
}

int Put(void *opaque, const void *key, size_t key_size, const void *value, size_t value_size)
{
    auto *session = static_cast<Session *>(opaque);
    const leveldb::Status status =
        session->db->db->Put(session->db->write, Slice(key, key_size), Slice(value, value_size));

    return status.ok() ? BENCH_OK : Fail("DB::Put", status);
}

int Get(void *opaque, const void *key, size_t key_size, const void **value, size_t *value_size)
{
    auto *session = static_cast<Session *>(opaque);
    const leveldb::Status status =
        session->db->db->Get(leveldb::ReadOptions(), Slice(key, key_size), &session->value);

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
    const leveldb::Status status =
        session->db->db->Delete(session->db->write, Slice(key, key_size));

    return status.ok() ? BENCH_OK : Fail("DB::Delete", status);
}

int SetSynced(void *opaque, bool on)
{
    auto *db = static_cast<Db *>(opaque);
    leveldb::WriteOptions sync;
    leveldb::WriteBatch empty;

    /* Everything before is in the log, which this syncs. */
    sync.sync = true;
    const leveldb::Status status = db->db->Write(sync, &empty);
    db->write.sync = on;
    return status.ok() ? BENCH_OK : Fail("DB::Write", status);
}

/* LevelDB does not tell whether it is compacting: its statistics do not
 * change while it is not. */
void Settle(void *opaque)
{
    auto *db = static_cast<Db *>(opaque);
    std::string before, now;

    for (int i = 0, still = 0; i < 600 && still < 4; i++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        if (!db->db->GetProperty("leveldb.stats", &now))
            return;
        still = now == before ? still + 1 : 0;
        before = now;
    }
}

int Scan(void *opaque, bool keys_only, struct bench_sums *sums)
{
    auto *db = static_cast<Db *>(opaque);
    leveldb::ReadOptions read;

    read.fill_cache = false;
    const std::unique_ptr<leveldb::Iterator> it(db->db->NewIterator(read));
    for (it->SeekToFirst(); it->Valid(); it->Next())
        bench_sums_add(sums, it->key().data(), keys_only ? nullptr : it->value().data());
    return it->status().ok() ? BENCH_OK : Fail("Iterator", it->status());
}

} // namespace

const struct bench_engine bench_engine_leveldb = {
    /* name */ "leveldb",
    /* title */ "LevelDB",
    /* document */ "leveldb/options.h and doc/index.md, Performance",
    /* configuration */
    "block cache larger than the data, Bloom filter 10 bits, write_buffer_size 16 MiB, "
    "max_file_size 32 MiB, no compression; gets into a reused std::string",
    /* durability */ "process death: the log is written before the put returns",
    /* synced */ "WriteOptions::sync",
    /* checksum */ "none from the cache",
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
