/*
 * virtio_blk_test.c: a disk on a real file, by io_uring and by threads, with a good driver and
 * with hostile ones; the file is compared outside.
 */
#include "devices/virtio/virtio_blk.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/fake_blk.h"
#include "tests/unit/virtio_rig.h"
#include "vmm/log.h"

#define SECTOR      512ULL
#define SECTORS     8192ULL /* of the disk: 4 MiB */
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define NEXT        VRING_DESC_F_NEXT
#define WRITE       VRING_DESC_F_WRITE
#define FLUSH       (1ULL << VIRTIO_BLK_F_FLUSH)
#define ZEROES      (1ULL << VIRTIO_BLK_F_WRITE_ZEROES)
#define DISCARD     (1ULL << VIRTIO_BLK_F_DISCARD)
#define ALL         (FLUSH | ZEROES | DISCARD)

/* Where a request lies in guest memory: a page each for header, status and others, then data.
 */
#define HEADER VRIG_DATA
#define STATUS (VRIG_DATA + 0x1000)
#define DATA   (VRIG_DATA + 0x10000)

static struct vrig rig;
static struct virtio *blk;
static char path[] = "/var/tmp/minivmm-disk-XXXXXX";
static int outside = -1; /* the file, as others see it */
static unsigned queues = 1;

static uint8_t byte(uint64_t offset)
{
    return (uint8_t)(offset * 7 + (offset >> 9) + 1);
}

static void make_file(void)
{
    static uint8_t all[SECTORS * SECTOR];
    outside = mkstemp(path);
    cr_assert_geq(outside, 0);
    for (size_t i = 0; i < sizeof(all); i++)
        all[i] = byte(i);
    cr_assert_eq(pwrite(outside, all, sizeof(all), 0), (ssize_t)sizeof(all));
}

static int create(struct virtio **out, bool ro, bool direct)
{
    const struct virtio_blk_setup setup = {.path = path,
                                           .ro = ro,
                                           .direct = direct,
                                           .queues = queues,
                                           .loop = rig.loop,
                                           .mem = &rig.mem};
    return virtio_blk_create(out, &setup);
}

static void plug(bool ro, bool direct)
{
    cr_assert_eq(create(&blk, ro, direct), 0);
    vrig_plug(&rig, blk);
}

static void unplug(void)
{
    vrig_unplug(&rig);
    virtio_destroy(blk);
}

static void setup(void)
{
    log_set_level(LOG_ERROR);
    cr_assert_not_null(freopen("/dev/null", "w", stderr));
    vrig_init(&rig);
    make_file();
}

static void teardown(void)
{
    vrig_fini(&rig);
    close(outside);
    unlink(path);
}

TestSuite(virtio_blk, .init = setup, .fini = teardown);

static void on_both(bool ro, uint64_t features, void (*test)(void))
{
    static const int setup_errno[] = {0, EPERM};
    for (size_t i = 0; i < ARRAY_SIZE(setup_errno); i++) {
        fake_blk.setup_errno = setup_errno[i];
        plug(ro, false);
        vrig_start(&rig, features);
        test();
        unplug();
    }
}

/* ---- the driver ---- */

static void put_header(uint32_t type, uint64_t sector)
{
    struct virtio_blk_outhdr header = {.type = type, .sector = sector};
    memcpy(vrig_at(&rig, HEADER, 16), &header, 16);
    *(uint8_t *)vrig_at(&rig, STATUS, 1) = 0xee;
}

static uint8_t status(void)
{
    return *(uint8_t *)vrig_at(&rig, STATUS, 1);
}

/* The chain from descriptor 0 on; returns how many bytes were written. */
static uint32_t go(void)
{
    struct vring_used_elem used = {0};
    vrig_offer(&rig, 0, 0);
    vrig_kick(&rig, 0);
    cr_assert(vrig_wait_used(&rig, 0, &used), "no answer");
    cr_expect_eq(used.id, 0);
    return used.len;
}

/* Header, LEN bytes at GPA, status. */
static uint32_t request(uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len,
                        bool to_guest)
{
    put_header(type, sector);
    vrig_set_desc(&rig, 0, 0, HEADER, 16, NEXT);
    vrig_set_desc(&rig, 0, 1, gpa, len, NEXT | (to_guest ? WRITE : 0));
    vrig_set_desc(&rig, 0, 2, STATUS, 1, WRITE);
    return go();
}

static uint8_t read_disk(uint64_t sector, uint32_t len)
{
    request(VIRTIO_BLK_T_IN, sector, DATA, len, true);
    return status();
}

static uint8_t write_disk(uint64_t sector, uint32_t len)
{
    request(VIRTIO_BLK_T_OUT, sector, DATA, len, false);
    return status();
}

static uint8_t command(uint32_t type)
{
    put_header(type, 0);
    vrig_set_desc(&rig, 0, 0, HEADER, 16, NEXT);
    vrig_set_desc(&rig, 0, 1, STATUS, 1, WRITE);
    go();
    return status();
}

static uint8_t range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes r = {sector, sectors, flags};
    memcpy(vrig_at(&rig, DATA, 16), &r, 16);
    request(type, 0, DATA, 16, false);
    return status();
}

/* Guest memory holds the disk's first data from OFFSET on. */
static bool holds(uint64_t gpa, uint64_t offset, size_t len)
{
    const uint8_t *at = vrig_at(&rig, gpa, len);
    for (size_t i = 0; i < len; i++) {
        if (at[i] != byte(offset + i))
            return false;
    }
    return true;
}

/* The file has VALUE all over [offset, offset + len), and its old data on both sides. */
static bool file_has(uint64_t offset, size_t len, uint8_t value)
{
    uint8_t *got = malloc(len + 2);
    cr_assert_eq(pread(outside, got, len + 2, (off_t)offset - 1), (ssize_t)len + 2);
    bool same = got[0] == byte(offset - 1) && got[len + 1] == byte(offset + len);
    for (size_t i = 1; i <= len; i++)
        same &= got[i] == value;
    free(got);
    return same;
}

static uint64_t config(size_t offset, unsigned size)
{
    return vrig_read(&rig, rig.device + offset, size);
}
#define CONFIG(field)                                 \
    config(offsetof(struct virtio_blk_config, field), \
           sizeof(((struct virtio_blk_config *)0)->field))

static uint64_t offered(void)
{
    return blk->features;
}

/* ---- what the driver finds ---- */

static void geometry(void)
{
    cr_expect_eq(vrig_config_read(&rig, PCI_DEVICE_ID, 2), 0x1040 + VIRTIO_ID_BLOCK);
    cr_expect_eq(CONFIG(capacity), SECTORS);
    cr_expect_eq(CONFIG(blk_size), 512);
    cr_expect_eq(CONFIG(physical_block_exp), 3);
    cr_expect_eq(CONFIG(min_io_size), 8);
    cr_expect_eq(CONFIG(seg_max), 128);
    cr_expect_eq(CONFIG(max_discard_seg), 1);
    cr_expect_eq(offered() & ALL, ALL);
    cr_expect_not(offered() >> VIRTIO_BLK_F_RO & 1);
    cr_expect_not(offered() >> VIRTIO_BLK_F_MQ & 1);
}

Test(virtio_blk, geometry)
{
    on_both(false, 0, geometry);
}

Test(virtio_blk, last_bytes_that_are_no_sector)
{
    cr_assert_eq(ftruncate(outside, SECTOR * 10 + 511), 0);
    plug(false, false);
    cr_expect_eq(CONFIG(capacity), 10);
    vrig_start(&rig, 0);
    cr_expect_eq(read_disk(9, 512), VIRTIO_BLK_S_OK);
    cr_expect_eq(read_disk(10, 512), VIRTIO_BLK_S_IOERR);
    unplug();
}

static void id(void)
{
    char want[VIRTIO_BLK_ID_BYTES + 1] = "";
    strncpy(want, strrchr(path, '/') + 1, VIRTIO_BLK_ID_BYTES);
    cr_expect_eq(request(VIRTIO_BLK_T_GET_ID, 0, DATA, VIRTIO_BLK_ID_BYTES, true), 21);
    cr_expect_eq(status(), VIRTIO_BLK_S_OK);
    cr_expect_arr_eq(vrig_at(&rig, DATA, 20), want, 20);
    *(uint8_t *)vrig_at(&rig, DATA + 5, 1) = 0x55;
    cr_expect_eq(request(VIRTIO_BLK_T_GET_ID, 0, DATA, 5, true), 6);
    cr_expect_eq(*(uint8_t *)vrig_at(&rig, DATA + 5, 1), 0x55);
}

Test(virtio_blk, id)
{
    on_both(false, 0, id);
}

/* ---- data ---- */

static void there_and_back(void)
{
    cr_expect_eq(request(VIRTIO_BLK_T_IN, 3, DATA, 4096, true), 4097);
    cr_expect_eq(status(), VIRTIO_BLK_S_OK);
    cr_expect(holds(DATA, 3 * SECTOR, 4096));
    cr_expect_eq(read_disk(SECTORS - 1, 512), VIRTIO_BLK_S_OK);
    cr_expect(holds(DATA, (SECTORS - 1) * SECTOR, 512));
    uint8_t value = fake_blk.setup_errno ? 0x31 : 0x13;
    memset(vrig_at(&rig, DATA, 8192), value, 8192);
    cr_expect_eq(request(VIRTIO_BLK_T_OUT, 100, DATA, 8192, false), 1);
    cr_expect_eq(status(), VIRTIO_BLK_S_OK);
    cr_expect(file_has(100 * SECTOR, 8192, value));
    memset(vrig_at(&rig, DATA, 8192), 0, 8192);
    cr_expect_eq(read_disk(100, 8192), VIRTIO_BLK_S_OK);
    cr_expect_eq(*(uint8_t *)vrig_at(&rig, DATA + 8191, 1), value);
}

Test(virtio_blk, there_and_back)
{
    on_both(false, ALL, there_and_back);
}

/* 2.7.4.2: where one buffer ends and the next begins says nothing. */
static void any_layout(void)
{
    memset(vrig_at(&rig, DATA, 0x3000), 0, 0x3000);
    put_header(VIRTIO_BLK_T_IN, 8);
    vrig_set_desc(&rig, 0, 0, HEADER, 1, NEXT);
    vrig_set_desc(&rig, 0, 1, HEADER + 1, 14, NEXT);
    vrig_set_desc(&rig, 0, 2, HEADER + 15, 1, NEXT);
    vrig_set_desc(&rig, 0, 3, DATA + 1, 511, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 4, DATA + 0x1000, 1, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 5, DATA + 0x2000, 513, WRITE); /* the last one is the status */
    cr_expect_eq(go(), 1025);
    cr_expect(holds(DATA + 1, 4096, 511));
    cr_expect(holds(DATA + 0x1000, 4096 + 511, 1));
    cr_expect(holds(DATA + 0x2000, 4096 + 512, 512));
    const uint8_t *end = vrig_at(&rig, DATA + 0x2000 + 512, 2);
    cr_expect_eq(end[0], VIRTIO_BLK_S_OK);
    cr_expect_eq(end[1], 0);

    /* A write with its header and data in one piece. */
    uint8_t value = fake_blk.setup_errno ? 0x32 : 0x23;
    memset(vrig_at(&rig, HEADER + 16, 512), value, 512);
    put_header(VIRTIO_BLK_T_OUT, 20);
    vrig_set_desc(&rig, 0, 0, HEADER, 16 + 512, NEXT);
    vrig_set_desc(&rig, 0, 1, STATUS, 1, WRITE);
    go();
    cr_expect_eq(status(), VIRTIO_BLK_S_OK);
    cr_expect(file_has(20 * SECTOR, 512, value));
}

Test(virtio_blk, any_layout)
{
    on_both(false, ALL, any_layout);
}

/* What the kernel does by halves is gone on with, wherever it stopped. */
Test(virtio_blk, short_transfers)
{
    fake_blk.setup_errno = ENOSYS;
    fake_blk.short_max = 700;
    plug(false, false);
    vrig_start(&rig, ALL);
    put_header(VIRTIO_BLK_T_IN, 8);
    vrig_set_desc(&rig, 0, 0, HEADER, 16, NEXT);
    vrig_set_desc(&rig, 0, 1, DATA, 1500, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 2, DATA + 1500, 1, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 3, DATA + 1501, 3619, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 4, STATUS, 1, WRITE);
    cr_expect_eq(go(), 5121);
    cr_expect_eq(status(), VIRTIO_BLK_S_OK);
    cr_expect(holds(DATA, 4096, 5120));
    memset(vrig_at(&rig, DATA, 4096), 0x42, 4096);
    cr_expect_eq(write_disk(30, 4096), VIRTIO_BLK_S_OK);
    cr_expect(file_has(30 * SECTOR, 4096, 0x42));
    unplug();
}

static void deep(void)
{
    struct vring_used_elem used;
    unsigned bad = 0;
    for (unsigned n = 0; n < 3; n++) {
        for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i += 4) { /* sector i / 4 each, into its own */
            struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_IN, .sector = i / 4};
            memcpy(vrig_at(&rig, HEADER + 16 * i, 16), &header, 16);
            vrig_set_desc(&rig, 0, i, HEADER + 16 * i, 16, NEXT);
            vrig_set_desc(&rig, 0, i + 1, DATA + i / 4 * SECTOR, SECTOR, NEXT | WRITE);
            vrig_set_desc(&rig, 0, i + 2, HEADER + 0x8000 + i, 1, WRITE);
        }
        memset(vrig_at(&rig, DATA, 64 * SECTOR), 0, 64 * SECTOR);
        /* Each of the 64 chains four times: more than there can be under way at once. */
        for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
            vrig_offer(&rig, 0, (uint16_t)(i % 64 * 4));
        vrig_kick(&rig, 0);
        for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
            cr_assert(vrig_wait_used(&rig, 0, &used), "%u of round %u", i, n);
        for (unsigned i = 0; i < 64; i++)
            bad += !holds(DATA + i * SECTOR, i * SECTOR, SECTOR);
        cr_expect_eq(bad, 0);
    }
}

Test(virtio_blk, deep)
{
    rig.size = VIRTQ_SIZE_MAX;
    on_both(false, ALL, deep);
}

Test(virtio_blk, queue_for_each_cpu)
{
    queues = 3;
    plug(false, false);
    cr_expect_eq(CONFIG(num_queues), 3);
    cr_expect(offered() >> VIRTIO_BLK_F_MQ & 1);
    vrig_start(&rig, ALL | 1ULL << VIRTIO_BLK_F_MQ);
    vrig_msix(&rig);
    for (unsigned q = 0; q < 3; q++) {
        struct vring_used_elem used;
        put_header(VIRTIO_BLK_T_IN, q);
        vrig_set_desc(&rig, q, 0, HEADER, 16, NEXT);
        vrig_set_desc(&rig, q, 1, DATA, 512, NEXT | WRITE);
        vrig_set_desc(&rig, q, 2, STATUS, 1, WRITE);
        vrig_offer(&rig, q, 0);
        vrig_kick(&rig, q);
        cr_assert(vrig_wait_used(&rig, q, &used));
        cr_expect(holds(DATA, q * SECTOR, 512));
        cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI + q));
    }
    unplug();
    queues = 1000;
    plug(false, false);
    cr_expect_eq(CONFIG(num_queues), VIRTIO_QUEUES_MAX);
    unplug();
}

/* ---- durability ---- */

static void flush(void)
{
    cr_expect_eq(command(VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, flush_and_write_back)
{
    on_both(false, ALL, flush);
    cr_expect_eq(fake_blk.syncs, 1, "by threads; by io_uring see file_that_fails");
    plug(false, false);
    vrig_start(&rig, ALL);
    cr_expect_eq(write_disk(1, 512), VIRTIO_BLK_S_OK);
    cr_expect_eq(fake_blk.dsyncs, 0);
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, 64, 64, 0), VIRTIO_BLK_S_OK);
    cr_expect_eq(fake_blk.syncs, 1);
    unplug();
}

/* 5.2.6.2: a driver that cannot flush has everything on the medium when it is done. */
Test(virtio_blk, write_through_without_flush)
{
    fake_blk.setup_errno = EPERM;
    plug(false, false);
    vrig_start(&rig, DISCARD);
    cr_expect_eq(write_disk(1, 512), VIRTIO_BLK_S_OK);
    cr_expect_eq(fake_blk.dsyncs, 1);
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, 64, 64, 0), VIRTIO_BLK_S_OK);
    cr_expect_eq(fake_blk.syncs, 1);
    cr_expect_eq(read_disk(1, 512), VIRTIO_BLK_S_OK);
    unplug();
}

/* ---- discard and zeros ---- */

static void discard(void)
{
    struct stat before, after;
    fsync(outside); /* its size on the medium is known after that */
    fstat(outside, &before);
    unsigned at = fake_blk.setup_errno ? 2048 : 1024;
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, at, 512, 0), VIRTIO_BLK_S_OK);
    fstat(outside, &after);
    cr_expect_eq(after.st_size, SECTORS * SECTOR);
    cr_expect_lt(after.st_blocks, before.st_blocks);
    cr_expect(file_has(at * SECTOR, 512 * SECTOR, 0));

    cr_expect_eq(range(VIRTIO_BLK_T_WRITE_ZEROES, at + 1024, 3, 1), VIRTIO_BLK_S_OK);
    cr_expect(file_has((at + 1024) * SECTOR, 3 * SECTOR, 0));
    uint8_t kept = range(VIRTIO_BLK_T_WRITE_ZEROES, at + 1030, 3, 0);
    cr_expect(kept == VIRTIO_BLK_S_OK || kept == VIRTIO_BLK_S_UNSUPP);
    if (kept == VIRTIO_BLK_S_OK)
        cr_expect(file_has((at + 1030) * SECTOR, 3 * SECTOR, 0));
}

Test(virtio_blk, discard)
{
    on_both(false, ALL, discard);
}

static void bad_ranges(void)
{
    static const struct {
        uint64_t sector;
        uint32_t sectors, flags, status;
    } bad[] = {
        {SECTORS, 1, 0, VIRTIO_BLK_S_IOERR},    {SECTORS - 1, 2, 0, VIRTIO_BLK_S_IOERR},
        {UINT64_MAX, 2, 0, VIRTIO_BLK_S_IOERR}, {0, 0, 0, VIRTIO_BLK_S_IOERR},
        {0, UINT32_MAX, 0, VIRTIO_BLK_S_IOERR}, {0, 1, 2, VIRTIO_BLK_S_UNSUPP},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        for (uint32_t type = VIRTIO_BLK_T_DISCARD; type <= VIRTIO_BLK_T_WRITE_ZEROES; type += 2)
            cr_expect_eq(range(type, bad[i].sector, bad[i].sectors, bad[i].flags),
                         bad[i].status, "%zu", i);
    }
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
    struct virtio_blk_discard_write_zeroes two[2] = {{0, 8, 0}, {8, 8, 0}};
    memcpy(vrig_at(&rig, DATA, 32), two, 32);
    request(VIRTIO_BLK_T_DISCARD, 0, DATA, 32, false);
    cr_expect_eq(status(), VIRTIO_BLK_S_IOERR, "two ranges");
    request(VIRTIO_BLK_T_DISCARD, 0, DATA, 15, false);
    cr_expect_eq(status(), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(command(VIRTIO_BLK_T_DISCARD), VIRTIO_BLK_S_IOERR);
    cr_expect(file_has(1, SECTOR - 2, 0) == false && read_disk(0, 512) == VIRTIO_BLK_S_OK &&
              holds(DATA, 0, 512));
}

Test(virtio_blk, bad_ranges)
{
    on_both(false, ALL, bad_ranges);
}

Test(virtio_blk, discard_where_it_cannot_be)
{
    fake_blk.setup_errno = EPERM;
    fake_blk.fallocate_errno = EOPNOTSUPP;
    plug(false, false);
    vrig_start(&rig, ALL);
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_UNSUPP);
    fake_blk.fallocate_errno = ENOSPC;
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
    fake_blk.fallocate_errno = 0;
    vrig_start(&rig, FLUSH); /* not agreed on */
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_UNSUPP);
    cr_expect_eq(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_UNSUPP);
    unplug();
}

/* ---- what cannot be done ---- */

static void refused(void)
{
    cr_expect_eq(read_disk(SECTORS, 512), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(read_disk(SECTORS - 1, 1024), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(read_disk(UINT64_MAX, 512), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(read_disk(UINT64_MAX / 512, 1024), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(read_disk(0, 511), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(write_disk(SECTORS - 1, 1024), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(write_disk(0, 100), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(command(VIRTIO_BLK_T_IN), VIRTIO_BLK_S_IOERR, "no data");
    cr_expect_eq(command(VIRTIO_BLK_T_OUT), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(request(VIRTIO_BLK_T_IN, SECTORS, DATA, 512, true), 1, "no data was written");
    static const uint32_t unknown[] = {2, 3, 9, 14, 0x80000000, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(unknown); i++)
        cr_expect_eq(command(unknown[i]), VIRTIO_BLK_S_UNSUPP);
    cr_expect_eq(read_disk(0, 512), VIRTIO_BLK_S_OK, "it goes on");
    cr_expect_not(vrig_status(&rig) & NEEDS_RESET);
}

Test(virtio_blk, refused)
{
    on_both(false, ALL, refused);
}

static void read_only(void)
{
    cr_expect(offered() >> VIRTIO_BLK_F_RO & 1);
    cr_expect_eq(offered() & (DISCARD | ZEROES), 0);
    cr_expect_eq(write_disk(0, 512), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_UNSUPP);
    cr_expect_eq(command(VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_OK);
    cr_expect_eq(read_disk(0, 512), VIRTIO_BLK_S_OK);
    cr_expect(holds(DATA, 0, 512));
}

Test(virtio_blk, read_only)
{
    cr_assert_eq(chmod(path, 0400), 0);
    on_both(true, FLUSH | 1ULL << VIRTIO_BLK_F_RO, read_only);
}

Test(virtio_blk, too_much_in_one_request)
{
    uint64_t table = DATA + 0x1000;
    cr_assert_eq(ftruncate(outside, (off_t)(4 * GIB)), 0);
    plug(false, false);
    vrig_start(&rig, ALL | 1ULL << VIRTIO_RING_F_INDIRECT_DESC);
    put_header(VIRTIO_BLK_T_IN, 0);
    for (unsigned i = 0; i < 130; i++) { /* 128 times 2 MiB, and no more than there is RAM */
        struct vring_desc d = {0, 2 * MIB, NEXT | WRITE, (uint16_t)(i + 1)};
        if (i == 0)
            d = (struct vring_desc){HEADER, 16, NEXT, 1};
        else if (i == 129)
            d = (struct vring_desc){STATUS, 1, WRITE, 0};
        memcpy(vrig_at(&rig, table + 16 * i, 16), &d, 16);
    }
    vrig_set_desc(&rig, 0, 0, table, 16 * 130, VRING_DESC_F_INDIRECT);
    cr_expect_eq(go(), 1);
    cr_expect_eq(status(), VIRTIO_BLK_S_IOERR);
    uint32_t most = (uint32_t)CONFIG(max_discard_sectors);
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, 0, most, 0), VIRTIO_BLK_S_OK);
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, 0, most + 1, 0), VIRTIO_BLK_S_IOERR);
    unplug();
}

static uint32_t seed;

static uint32_t any(uint32_t below)
{
    seed = seed * 1103515245 + 12345;
    return (seed >> 8) % below;
}

/* Five good requests with something wrong in some of their descriptors: whatever becomes of a
 * round, the next one begins anew. */
static void random_rings(void)
{
    static const uint32_t len[] = {0, 1, 15, 17, 32, 512, 4096, 65536, 0x80000000};
    unsigned ends = 0, answers = 0;
    struct vring_used_elem used;
    seed = 1;
    for (unsigned round = 0; round < 1000; round++) {
        vrig_start(&rig, ALL | 1ULL << VIRTIO_RING_F_INDIRECT_DESC |
                             (uint64_t)any(2) << VIRTIO_RING_F_EVENT_IDX);
        for (unsigned i = 0; i < 15; i += 3) {
            struct virtio_blk_outhdr header = {any(15), any(10), any(SECTORS + 10)};
            memcpy(vrig_at(&rig, HEADER + 16 * i, 16), &header, 16);
            vrig_set_desc(&rig, 0, i, HEADER + 16 * i, 16, NEXT);
            vrig_set_desc(&rig, 0, i + 1, DATA + any(0x8000), 512, NEXT | WRITE * any(2));
            vrig_set_desc(&rig, 0, i + 2, STATUS + i, 1, WRITE);
        }
        for (unsigned n = any(4); n > 0; n--) {
            struct vring_desc *d = vrig_desc(&rig, 0, any(16));
            switch (any(4)) {
            case 0:
                d->addr = any(2) ? VRIG_RAM - any(600) : seed * 0x100000001ULL;
                break;
            case 1:
                d->len = len[any(ARRAY_SIZE(len))];
                break;
            case 2:
                d->flags = (uint16_t)any(8);
                break;
            case 3:
                d->next = (uint16_t)any(17);
                break;
            }
        }
        for (unsigned i = 0; i < 5; i++) {
            vrig_offer(&rig, 0, (uint16_t)(any(30) ? 3 * i : any(0x10000)));
            vrig_kick(&rig, 0);
        }
        while (vrig_used(&rig, 0, &used))
            answers++;
        ends += vrig_status(&rig) / NEEDS_RESET & 1;
    }
    cr_expect(ends > 200 && ends < 800 && answers > 1000, "%u ends, %u answers", ends, answers);
    vrig_start(&rig, ALL);
    cr_expect_eq(command(VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, random_rings)
{
    on_both(false, ALL, random_rings);
}

static void no_header(void)
{
    vrig_set_desc(&rig, 0, 0, HEADER, 15, NEXT);
    vrig_set_desc(&rig, 0, 1, STATUS, 1, WRITE);
}

static void only_status(void)
{
    vrig_set_desc(&rig, 0, 0, STATUS, 1, WRITE);
}

static void only_header(void)
{
    vrig_set_desc(&rig, 0, 0, HEADER, 16, 0);
}

static void empty_status(void)
{
    vrig_set_desc(&rig, 0, 0, HEADER, 16, NEXT);
    vrig_set_desc(&rig, 0, 1, STATUS, 0, WRITE);
}

static void data_beyond_ram(void)
{
    vrig_set_desc(&rig, 0, 0, HEADER, 16, NEXT);
    vrig_set_desc(&rig, 0, 1, VRIG_RAM - 511, 512, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 2, STATUS, 1, WRITE);
}

static void malformed(void)
{
    static void (*const fill[])(void) = {no_header, only_status, only_header, empty_status,
                                         data_beyond_ram};
    for (size_t i = 0; i < ARRAY_SIZE(fill); i++) {
        struct vring_used_elem used;
        vrig_start(&rig, ALL);
        put_header(VIRTIO_BLK_T_IN, 0);
        fill[i]();
        vrig_offer(&rig, 0, 0);
        vrig_kick(&rig, 0);
        vrig_pump(&rig);
        cr_expect(vrig_status(&rig) & NEEDS_RESET, "%zu", i);
        cr_expect_not(vrig_used(&rig, 0, &used));
        cr_expect_eq(status(), 0xee);
    }
    /* Nothing of all that is kept: as many more as there can be under way. */
    for (unsigned i = 0; i < 130; i++) {
        vrig_start(&rig, ALL);
        only_header();
        vrig_offer(&rig, 0, 0);
        vrig_kick(&rig, 0);
    }
    vrig_start(&rig, ALL);
    cr_expect_eq(read_disk(0, 512), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, malformed)
{
    on_both(false, ALL, malformed);
}

/* ---- a file that fails ---- */

static void becomes_shorter(void)
{
    cr_assert_eq(ftruncate(outside, SECTOR * 10), 0);
    cr_expect_eq(read_disk(9, 1024), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(read_disk(100, 512), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(read_disk(9, 512), VIRTIO_BLK_S_OK);
    cr_assert_eq(ftruncate(outside, SECTORS * SECTOR), 0);
}

Test(virtio_blk, becomes_shorter)
{
    on_both(false, ALL, becomes_shorter);
}

/* A file that may not grow (RLIMIT_FSIZE) is an error of the request's, not minivmm's end. */
static void beyond_the_limit(void)
{
    const struct rlimit limit = {1 * MIB, RLIM_INFINITY};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_expect_eq(write_disk(0, 512), VIRTIO_BLK_S_OK);
    cr_expect_eq(write_disk(SECTORS - 1, 512), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(read_disk(SECTORS - 1, 512), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, beyond_the_limit)
{
    signal(SIGXFSZ, SIG_IGN); /* as main() has it */
    on_both(false, ALL, beyond_the_limit);
}

/* The descriptor that is not OUTSIDE, of the same file. */
static int inside(void)
{
    char link[64], target[PATH_MAX];
    for (int fd = 3; fd < 100; fd++) {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        ssize_t len = readlink(link, target, sizeof(target) - 1);
        if (len > 0 && fd != outside && (target[len] = '\0', !strcmp(target, path)))
            return fd;
    }
    return -1;
}

static void file_that_fails(void)
{
    int fd = inside(), null = open("/dev/null", O_RDONLY); /* it can neither read nor flush */
    cr_assert(fd >= 0 && null >= 0);
    cr_assert_eq(dup2(null, fd), fd);
    cr_expect_eq(read_disk(0, 512), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(write_disk(0, 512), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(command(VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_IOERR);
    cr_expect_eq(range(VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
    close(null);
}

Test(virtio_blk, file_that_fails)
{
    on_both(false, ALL, file_that_fails);
}

Test(virtio_blk, ring_that_takes_nothing)
{
    plug(false, false);
    vrig_start(&rig, ALL);
    fake_blk.enter_errno = EAGAIN;
    for (unsigned i = 0; i < 300; i++)
        cr_expect_eq(read_disk(0, 512), VIRTIO_BLK_S_IOERR);
    fake_blk.enter_errno = 0;
    cr_expect_eq(read_disk(0, 512), VIRTIO_BLK_S_OK);
    cr_expect(holds(DATA, 0, 512));
    unplug();
}

/* Nothing is lost as long as there is something under way that makes room. */
Test(virtio_blk, ring_that_takes_one)
{
    struct vring_used_elem used;
    plug(false, false);
    vrig_start(&rig, ALL);
    for (unsigned n = 0; n < 5; n++) {
        fake_blk.enter_by_one = 1;
        put_header(VIRTIO_BLK_T_IN, 1);
        for (unsigned i = 0; i < 5; i++) {
            vrig_set_desc(&rig, 0, 3 * i, HEADER, 16, NEXT);
            vrig_set_desc(&rig, 0, 3 * i + 1, DATA + 512 * i, 512, NEXT | WRITE);
            vrig_set_desc(&rig, 0, 3 * i + 2, STATUS + i, 1, WRITE);
            vrig_offer(&rig, 0, (uint16_t)(3 * i));
        }
        memset(vrig_at(&rig, STATUS, 5), 0xee, 5);
        vrig_kick(&rig, 0);
        for (unsigned i = 0; i < 5; i++) {
            cr_assert(vrig_wait_used(&rig, 0, &used));
            cr_expect_eq(*(uint8_t *)vrig_at(&rig, STATUS + i, 1), VIRTIO_BLK_S_OK);
            cr_expect(holds(DATA + 512 * i, 512, 512));
        }
    }
    unplug();
}

/* ---- reset ---- */

/* With requests under way: when the driver reads 0, none of them touches memory any more. */
static void reset_in_flight(void)
{
    for (unsigned n = 0; n < 10; n++) {
        vrig_start(&rig, ALL);
        memset(vrig_at(&rig, DATA, 512 * KIB), 0, 512 * KIB);
        put_header(VIRTIO_BLK_T_IN, 0);
        vrig_set_desc(&rig, 0, 0, HEADER, 16, NEXT);
        vrig_set_desc(&rig, 0, 1, DATA, 512 * KIB, NEXT | WRITE);
        vrig_set_desc(&rig, 0, 2, STATUS, 1, WRITE);
        for (unsigned i = 0; i < VRIG_SIZE; i++)
            vrig_offer(&rig, 0, 0);
        vrig_kick(&rig, 0);
        vrig_set_status(&rig, 0);
        cr_expect_eq(vrig_status(&rig), 0);
        cr_expect(holds(DATA, 0, 512 * KIB));
        struct vring_used *used = vrig_used_ring(&rig, 0);
        uint16_t idx = used->idx;
        memset(vrig_at(&rig, DATA, 512 * KIB), 0x77, 512 * KIB);
        nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        vrig_pump(&rig);
        cr_expect_eq(used->idx, idx);
        for (unsigned i = 0; i < 512 * KIB; i += 512)
            cr_assert_eq(*(uint8_t *)vrig_at(&rig, DATA + i, 1), 0x77);
    }
    vrig_start(&rig, ALL);
    cr_expect_eq(read_disk(5, 512), VIRTIO_BLK_S_OK);
    cr_expect(holds(DATA, 5 * SECTOR, 512));
}

Test(virtio_blk, reset_in_flight)
{
    fake_blk.slow_ms = 1;
    on_both(false, ALL, reset_in_flight);
}

static void *run_loop(void *opaque)
{
    loop_run(opaque);
    return NULL;
}

/* A vCPU resets while the loop looks for the same requests: neither takes from the other what
 * it waits for. */
static void reset_beside_the_loop(void)
{
    for (unsigned n = 0; n < 200; n++) {
        pthread_t thread;
        vrig_start(&rig, ALL);
        put_header(VIRTIO_BLK_T_IN, 0);
        vrig_set_desc(&rig, 0, 0, HEADER, 16, NEXT);
        vrig_set_desc(&rig, 0, 1, DATA, 4096, NEXT | WRITE);
        vrig_set_desc(&rig, 0, 2, STATUS, 1, WRITE);
        vrig_offer(&rig, 0, 0);
        vrig_kick(&rig, 0);
        cr_assert_eq(pthread_create(&thread, NULL, run_loop, rig.loop), 0);
        vrig_set_status(&rig, 0);
        cr_expect_eq(status(), VIRTIO_BLK_S_OK);
        loop_stop(rig.loop);
        pthread_join(thread, NULL);
    }
}

Test(virtio_blk, reset_beside_the_loop)
{
    fake_blk.slow_ms = 1;
    on_both(false, ALL, reset_beside_the_loop);
}

/* The end of the VM in the same state. */
static void end_in_flight(void)
{
    put_header(VIRTIO_BLK_T_IN, 0);
    vrig_set_desc(&rig, 0, 0, HEADER, 16, NEXT);
    vrig_set_desc(&rig, 0, 1, DATA, 512 * KIB, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 2, STATUS, 1, WRITE);
    for (unsigned i = 0; i < VRIG_SIZE; i++)
        vrig_offer(&rig, 0, 0);
    vrig_kick(&rig, 0);
}

Test(virtio_blk, end_in_flight)
{
    fake_blk.slow_ms = 20;
    on_both(false, ALL, end_in_flight);
    cr_expect(holds(DATA, 0, 512 * KIB));
}

/* ---- O_DIRECT ---- */

Test(virtio_blk, direct_with_any_alignment)
{
    int probe = open(path, O_RDWR | O_DIRECT);
    if (probe < 0)
        cr_skip("no O_DIRECT in %s", path);
    close(probe);
    for (unsigned i = 0; i < 2; i++) {
        fake_blk.setup_errno = i ? EPERM : 0;
        plug(false, true);
        vrig_start(&rig, ALL);
        cr_expect_eq(read_disk(8, 4096), VIRTIO_BLK_S_OK);
        cr_expect(holds(DATA, 4096, 4096));
        for (unsigned shift = 0; shift < 1024;
             shift += 93) { /* the last one is like the first */
            uint8_t value = (uint8_t)(shift + 17 + i);
            memset(vrig_at(&rig, DATA + shift, 4096), value, 4096);
            request(VIRTIO_BLK_T_OUT, 16 + 8 * (shift % 2), DATA + shift, 4096, false);
            cr_expect_eq(status(), VIRTIO_BLK_S_OK);
            memset(vrig_at(&rig, DATA, 16384), 0, 16384);
            cr_expect_eq(read_disk(16 + 8 * (shift % 2), 4096), VIRTIO_BLK_S_OK);
            cr_expect_eq(*(uint8_t *)vrig_at(&rig, DATA, 1), value);
            cr_expect_eq(*(uint8_t *)vrig_at(&rig, DATA + 4095, 1), value);
        }
        cr_expect_eq(read_disk(3, 512 * 3), VIRTIO_BLK_S_OK, "not whole blocks of the file's");
        cr_expect(holds(DATA, 3 * SECTOR, 512 * 3));
        unplug();
    }
}

/* ---- opening ---- */

static int try(const char *name, bool ro, bool direct)
{
    struct virtio *other = NULL;
    const struct virtio_blk_setup s = {.path = name,
                                       .ro = ro,
                                       .direct = direct,
                                       .queues = 1,
                                       .loop = rig.loop,
                                       .mem = &rig.mem};
    int err = virtio_blk_create(&other, &s);
    virtio_destroy(other);
    return err;
}

Test(virtio_blk, in_use)
{
    plug(false, false);
    cr_expect_eq(try(path, false, false), -EAGAIN);
    cr_expect_eq(try(path, true, false), -EAGAIN);
    unplug();
    cr_expect_eq(try(path, false, false), 0);
    plug(true, false);
    cr_expect_eq(try(path, false, false), -EAGAIN);
    cr_expect_eq(try(path, true, false), 0, "readers do not mind each other");
    unplug();
}

Test(virtio_blk, qcow2)
{
    char text[256] = "";
    int pipes[2];
    cr_assert_eq(pipe2(pipes, O_NONBLOCK), 0);
    log_set_level(LOG_WARN);
    dup2(pipes[1], STDERR_FILENO);
    cr_expect_eq(try(path, true, false), 0);
    cr_expect_lt(read(pipes[0], text, sizeof(text) - 1), 0, "%s", text);
    cr_assert_eq(pwrite(outside, "QFI\xfb", 4, 0), 4);
    cr_expect_eq(try(path, true, false), 0);
    cr_expect_gt(read(pipes[0], text, sizeof(text) - 1), 0);
    cr_expect(strstr(text, "qemu-img convert"), "%s", text);
}

Test(virtio_blk, no_image)
{
    char dir[] = "/var/tmp/minivmm-dir-XXXXXX", name[64];
    cr_expect_eq(try("/nonexistent/disk", false, false), -ENOENT);
    cr_assert_not_null(mkdtemp(dir));
    cr_expect_eq(try(dir, true, false), -EINVAL);
    snprintf(name, sizeof(name), "%s/fifo", dir);
    cr_assert_eq(mkfifo(name, 0600), 0);
    cr_expect_eq(try(name, false, false), -EINVAL);
    unlink(name);
    rmdir(dir);
    cr_expect_eq(try("/dev/null", false, false), -EINVAL);
    cr_assert_eq(ftruncate(outside, 511), 0);
    cr_expect_eq(try(path, false, false), -EINVAL);
    cr_assert_eq(ftruncate(outside, 512), 0);
    cr_expect_eq(try(path, false, false), 0);
}
