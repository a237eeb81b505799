/* SPDX-License-Identifier: MIT */
/*
 * Kyoto Cabinet HashDB, as its specification ("Tips and Hacks": tuning of the
 * file hash database, dbmx.net/kyotocabinet/spex.html) advises: about twice
 * as many buckets as records, linear collision chaining (smaller records;
 * right where buckets are plenty), and a memory-mapped region larger than the
 * database, so that no operation falls back to pread() and pwrite().
 */
#include "engine.h"

#include <memory>
#include <string>

#include <kchashdb.h>

namespace
{

struct Db {
    kyotocabinet::HashDB dbm;
    size_t value_size = 0;
    bool synced = false;
};

struct Session {
    Db *db;
    std::string buffer;
};

int Fail(const char *what, const Db &db)
{
    const kyotocabinet::BasicDB::Error error = db.dbm.error();

    return bench_fail("%s: %s: %s", what, error.name(), error.message());
}

const char *Bytes(const void *data)
{
    return static_cast<const char *>(data);
}

const char *Version(void)
{
    return kyotocabinet::VERSION;
}

void *Open(const struct bench_setup *setup)
{
    auto db = std::make_unique<Db>();
    const uint64_t record = setup->key_size + setup->value_size + 32;
    const uint64_t buckets = setup->keys * 2;

    db->value_size = setup->value_size;
    db->dbm.tune_options(kyotocabinet::HashDB::TLINEAR);
    db->dbm.tune_buckets(static_cast<int64_t>(buckets));
    db->dbm.tune_map(static_cast<int64_t>(buckets * 6 + setup->keys * record * 2 + (1u << 26)));
    if (!db->dbm.open(std::string(setup->directory) + "/bench.kch",
                      kyotocabinet::HashDB::OWRITER | kyotocabinet::HashDB::OCREATE)) {
        (void)Fail("HashDB::open", *db);
        return nullptr;
    }
    return db.release();
}

int Close(void *opaque)
{
    const std::unique_ptr<Db> db(static_cast<Db *>(opaque));

    return db->dbm.close() ? BENCH_OK : Fail("HashDB::close", *db);
}

void *SessionBegin(void *opaque)
{
    auto *db = static_cast<Db *>(opaque);

    return new Session{db, std::string(db->value_size + 1, '\0')};
}

void SessionEnd(void *opaque)
{
    delete static_cast<Session *>(opaque);
}

int Put(void *opaque, const void *key, size_t key_size, const void *value, size_t value_size)
{
    auto *session = static_cast<Session *>(opaque);

    if (!session->db->dbm.set(Bytes(key), key_size, Bytes(value), value_size))
        return Fail("HashDB::set", *session->db);
    if (session->db->synced && !session->db->dbm.synchronize(true))
        return Fail("HashDB::synchronize", *session->db);
    return BENCH_OK;
}

int Get(void *opaque, const void *key, size_t key_size, const void **value, size_t *value_size)
{
    auto *session = static_cast<Session *>(opaque);
    const int32_t size =
        session->db->dbm.get(Bytes(key), key_size, session->buffer.data(), session->buffer.size());

    if (size < 0)
        return session->db->dbm.error() == kyotocabinet::BasicDB::Error::NOREC
                   ? BENCH_ABSENT
                   : Fail("HashDB::get", *session->db);
    *value = session->buffer.data();
    *value_size = static_cast<size_t>(size);
    return BENCH_OK;
}

int Del(void *opaque, const void *key, size_t key_size)
{
    auto *session = static_cast<Session *>(opaque);

    if (session->db->dbm.remove(Bytes(key), key_size))
        return BENCH_OK;
    return session->db->dbm.error() == kyotocabinet::BasicDB::Error::NOREC
               ? BENCH_ABSENT
               : Fail("HashDB::remove", *session->db);
}

int SetSynced(void *opaque, bool on)
{
    auto *db = static_cast<Db *>(opaque);

    db->synced = on;
    return db->dbm.synchronize(true) ? BENCH_OK : Fail("HashDB::synchronize", *db);
}

} // namespace

const struct bench_engine bench_engine_kyoto = {
    /* name */ "kyoto",
    /* title */ "Kyoto Cabinet",
    /* document */ "kchashdb.h and the specification's Tips and Hacks (spex.html)",
    /* configuration */
    "HashDB, bnum 2 x keys, TLINEAR, msiz larger than the file; gets into a reused buffer",
    /* durability */ "process death: the record is in the shared map (reopening repairs)",
    /* synced */ "synchronize(hard) after every put",
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
    /* settle */ nullptr,
    /* usage */ nullptr,
    /* scan */ nullptr,
};
