/* SPDX-License-Identifier: MIT */
/*
 * Tkrzw HashDBM, as the comments of tkrzw_dbm_hash.h advise: "For good
 * performance, the number of buckets should be larger than the number of
 * records" (twice here), in-place updating, the default MemoryMapParallelFile.
 * Offsets of 4 bytes at an alignment of 2^3 address 32 GiB, and are the
 * defaults. What is read at once (min_read_size) covers a whole record.
 */
#include "engine.h"

#include <memory>
#include <string>

#include <tkrzw_dbm_hash.h>

namespace
{

struct Db {
    tkrzw::HashDBM dbm;
    bool synced = false;
};

struct Session {
    Db *db;
    std::string value;
};

int Fail(const char *what, const tkrzw::Status &status)
{
    return bench_fail("%s: %s", what, std::string(status).c_str());
}

std::string_view View(const void *data, size_t size)
{
    return std::string_view(static_cast<const char *>(data), size);
}

const char *Version(void)
{
    return tkrzw::PACKAGE_VERSION;
}

void *Open(const struct bench_setup *setup)
{
    auto db = std::make_unique<Db>();
    tkrzw::HashDBM::TuningParameters tuning;

    tuning.update_mode = tkrzw::HashDBM::UPDATE_IN_PLACE;
    tuning.offset_width = 4;
    tuning.align_pow = 3;
    tuning.num_buckets = static_cast<int64_t>(setup->keys * 2);
    tuning.min_read_size = static_cast<int32_t>(setup->key_size + setup->value_size + 16);
    const tkrzw::Status status = db->dbm.OpenAdvanced(std::string(setup->directory) + "/bench.tkh",
                                                      true, tkrzw::File::OPEN_DEFAULT, tuning);
    if (status != tkrzw::Status::SUCCESS) {
        (void)Fail("HashDBM::OpenAdvanced", status);
        return nullptr;
    }
    return db.release();
}

int Close(void *opaque)
{
    const std::unique_ptr<Db> db(static_cast<Db *>(opaque));
    const tkrzw::Status status = db->dbm.Close();

    return status == tkrzw::Status::SUCCESS ? BENCH_OK : Fail("HashDBM::Close", status);
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
    tkrzw::Status status = session->db->dbm.Set(View(key, key_size), View(value, value_size));

    if (status == tkrzw::Status::SUCCESS && session->db->synced)
        status = session->db->dbm.Synchronize(true);
    return status == tkrzw::Status::SUCCESS ? BENCH_OK : Fail("HashDBM::Set", status);
}

int Get(void *opaque, const void *key, size_t key_size, const void **value, size_t *value_size)
{
    auto *session = static_cast<Session *>(opaque);
    const tkrzw::Status status = session->db->dbm.Get(View(key, key_size), &session->value);

    if (status == tkrzw::Status::NOT_FOUND_ERROR)
        return BENCH_ABSENT;
    if (status != tkrzw::Status::SUCCESS)
        return Fail("HashDBM::Get", status);
    *value = session->value.data();
    *value_size = session->value.size();
    return BENCH_OK;
}

int Del(void *opaque, const void *key, size_t key_size)
{
    auto *session = static_cast<Session *>(opaque);
    const tkrzw::Status status = session->db->dbm.Remove(View(key, key_size));

    if (status == tkrzw::Status::NOT_FOUND_ERROR)
        return BENCH_ABSENT;
    return status == tkrzw::Status::SUCCESS ? BENCH_OK : Fail("HashDBM::Remove", status);
}

int SetSynced(void *opaque, bool on)
{
    auto *db = static_cast<Db *>(opaque);
    const tkrzw::Status status = db->dbm.Synchronize(true);

    db->synced = on;
    return status == tkrzw::Status::SUCCESS ? BENCH_OK : Fail("HashDBM::Synchronize", status);
}

class Adder : public tkrzw::DBM::RecordProcessor
{
  public:
    Adder(bench_sums *sums, bool keys_only) : sums_(sums), keys_only_(keys_only) {}

    std::string_view ProcessFull(std::string_view key, std::string_view value) override
    {
        bench_sums_add(sums_, key.data(), keys_only_ ? nullptr : value.data());
        return NOOP;
    }

  private:
    bench_sums *sums_;
    bool keys_only_;
};

/* An iterator looks each record up again; this does not. */
int Scan(void *opaque, bool keys_only, struct bench_sums *sums)
{
    auto *db = static_cast<Db *>(opaque);
    Adder adder(sums, keys_only);
    const tkrzw::Status status = db->dbm.ProcessEach(&adder, false);

    return status == tkrzw::Status::SUCCESS ? BENCH_OK : Fail("HashDBM::ProcessEach", status);
}

} // namespace

const struct bench_engine bench_engine_tkrzw = {
    /* name */ "tkrzw",
    /* title */ "Tkrzw HashDBM",
    /* document */ "tkrzw_dbm_hash.h, HashDBM::TuningParameters",
    /* configuration */
    "num_buckets 2 x keys, offset_width 4, align_pow 3, in-place updates, min_read_size a "
    "record, MemoryMapParallelFile; gets into a reused std::string",
    /* durability */ "process death: the record is in the shared map (reopening repairs)",
    /* synced */ "Synchronize(hard) after every put",
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
    Scan,
};
