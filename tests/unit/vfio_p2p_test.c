/*
 * vfio_p2p_test.c: BARs as peers' DMA targets: the chunks of a mapping, BARs that go while one
 * is being mapped, failures, the end; then the same behind a PCI function. The thread is real;
 * a test waits for what the IOMMU played here has been told, and holds it up, by conditions.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "tests/unit/fake_clock.h"
#include "tests/unit/fake_cond.h"
#include "tests/unit/fake_vfio_kernel.h"
#include "tests/unit/vfio_pci_world.h"
#include "vfio/vfio_p2p.h"
#include "vfio/vfio_view.h"

#define MAPS_MAX 2048

/* An IOMMU that can be made to hang and to fail. */
static struct {
    struct vfio_iommu iommu;
    struct vfio_iova_range range[2];
    int nr;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool hold;        /* map calls do not come back */
    unsigned held;    /* map calls that are held */
    unsigned maps;    /* calls so far */
    unsigned fail_at; /* this one fails, from 1 */
    int err;
    unsigned mapped;
    struct {
        uint64_t iova, size;
        void *hva;
    } map[MAPS_MAX];           /* what is mapped, sorted by nothing */
    struct fake_vfio *decodes; /* this device has to, when something is unmapped */
} io;

static int get_limits(struct vfio_iommu *iommu, struct vfio_dma_limits *limits)
{
    (void)iommu;
    memcpy(limits->range, io.range, sizeof(io.range));
    limits->nr = (unsigned)MAX(io.nr, 0);
    limits->page = 4096;
    return MIN(io.nr, 0);
}

static int map(struct vfio_iommu *iommu, uint64_t iova, uint64_t size, void *hva, int fd,
               uint64_t fd_offset)
{
    (void)iommu;
    (void)fd_offset;
    int err = 0;
    pthread_mutex_lock(&io.lock);
    cr_expect_eq(fd, -1);
    io.held++;
    pthread_cond_broadcast(&io.changed);
    while (io.hold)
        pthread_cond_wait(&io.changed, &io.lock);
    io.held--;
    if (++io.maps == io.fail_at)
        err = io.err;
    for (unsigned i = 0; i < io.mapped; i++)
        cr_expect(iova + size <= io.map[i].iova || io.map[i].iova + io.map[i].size <= iova,
                  "0x%lx is mapped already", (unsigned long)iova);
    if (!err && io.mapped < MAPS_MAX) {
        io.map[io.mapped].iova = iova;
        io.map[io.mapped].size = size;
        io.map[io.mapped++].hva = hva;
    }
    pthread_cond_broadcast(&io.changed);
    pthread_mutex_unlock(&io.lock);
    return err;
}

static int unmap(struct vfio_iommu *iommu, uint64_t iova, uint64_t size)
{
    (void)iommu;
    pthread_mutex_lock(&io.lock);
    unsigned i = 0;
    while (i < io.mapped && io.map[i].iova != iova)
        i++;
    cr_expect(i < io.mapped && io.map[i].size == size, "exactly what was mapped");
    if (i < io.mapped)
        io.map[i] = io.map[--io.mapped];
    if (io.decodes)
        cr_expect(io.decodes->config[PCI_COMMAND] & PCI_COMMAND_MEMORY);
    pthread_mutex_unlock(&io.lock);
    return 0;
}

static const struct vfio_iommu_ops ops = {get_limits, map, unmap};

/* Waits until *COUNT is N. */
static void wait_for(const unsigned *count, unsigned n)
{
    pthread_mutex_lock(&io.lock);
    while (*count != n)
        pthread_cond_wait(&io.changed, &io.lock);
    pthread_mutex_unlock(&io.lock);
}

static void hold(bool on)
{
    pthread_mutex_lock(&io.lock);
    io.hold = on;
    pthread_cond_broadcast(&io.changed);
    pthread_mutex_unlock(&io.lock);
}

/* Whether [IOVA, IOVA + SIZE) is one mapping, of HVA. */
static bool is_mapped(uint64_t iova, uint64_t size, const void *hva)
{
    bool found = false;
    pthread_mutex_lock(&io.lock);
    for (unsigned i = 0; i < io.mapped; i++)
        found |= io.map[i].iova == iova && io.map[i].size == size && io.map[i].hva == hva;
    pthread_mutex_unlock(&io.lock);
    return found;
}

/* ---- alone ---- */

static struct vfio_device device = {.name = "0000:42:00.0"};
static struct vfio_view view[2];
static struct vfio_p2p *p2p;

#define VA   ((uint8_t *)0x7f0000000000)
#define BASE 0x4000000000ULL

static void set_up(void)
{
    fake_vfio_kernel_init(); /* catches the notes */
    io.iommu = (struct vfio_iommu){.ops = &ops, .name = "iommu0"};
    pthread_mutex_init(&io.lock, NULL);
    pthread_cond_init(&io.changed, NULL);
    for (unsigned i = 0; i < 2; i++) {
        view[i] = (struct vfio_view){
            .dev = &device, .noun = "BAR", .va = VA + i * GIB, .addr = BASE + i * GIB};
        view[i].region = (struct vfio_region){
            .index = i, .size = 256 * MIB, .areas = 1, .area = {{0, 256 * MIB}}};
    }
}

static void tear_down(void)
{
    vfio_p2p_destroy(p2p);
    cr_expect_eq(io.mapped, 0, "nothing is left");
    cr_expect_eq(io.held, 0);
    fake_vfio_kernel_fini();
}

TestSuite(vfio_p2p, .init = set_up, .fini = tear_down, .timeout = 60);

static void create(void)
{
    cr_assert_eq(vfio_p2p_create(&p2p, &io.iommu, 0), 0);
}

/* The thread says so a moment after the last chunk is mapped; the suite's limit ends it. */
static void wait_for_bytes(uint64_t bytes)
{
    while (vfio_p2p_bytes(p2p) != bytes)
        sched_yield();
}

/* What was noted, once the thread has ended. */
static const char *notes(void)
{
    vfio_p2p_stop(p2p);
    return fake_log();
}

Test(vfio_p2p, a_bar_in_chunks)
{
    create();
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.mapped, 4);
    for (unsigned i = 0; i < 4; i++)
        cr_expect(is_mapped(BASE + i * 64 * MIB, 64 * MIB, VA + i * 64 * MIB));
    cr_expect_str_eq(notes(), "minivmm: 0000:42:00.0: BAR0 is a peer's DMA target from "
                              "0x4000000000 to 0x400fffffff\n");
    wait_for_bytes(256 * MIB);
    vfio_p2p_remove(p2p, &view[0]);
    cr_expect_eq(io.mapped, 0);
    cr_expect_eq(vfio_p2p_bytes(p2p), 0);
    vfio_p2p_remove(p2p, &view[0]); /* is fine */
}

/* A hole (an MSI-X table) stays one; a chunk ends at a multiple of its size. */
Test(vfio_p2p, only_the_direct_parts)
{
    view[0].region.areas = 3;
    view[0].region.area[0] = (struct vfio_area){0x1000, 0x1000};
    view[0].region.area[1] = (struct vfio_area){0x3000, 64 * MIB};
    view[0].region.area[2] = (struct vfio_area){128 * MIB, 0x1000};
    create();
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.mapped, 4);
    cr_expect(is_mapped(BASE + 0x1000, 0x1000, VA + 0x1000));
    cr_expect(is_mapped(BASE + 0x3000, 64 * MIB - 0x3000, VA + 0x3000));
    cr_expect(is_mapped(BASE + 64 * MIB, 0x3000, VA + 64 * MIB));
    cr_expect(is_mapped(BASE + 128 * MIB, 0x1000, VA + 128 * MIB));
    wait_for_bytes(64 * MIB + 0x2000);
}

Test(vfio_p2p, nothing_direct_nothing_mapped)
{
    view[0].region.areas = 0;
    create();
    vfio_p2p_add(p2p, &view[0]);
    vfio_p2p_add(p2p, &view[1]);
    wait_for(&io.mapped, 4);
    cr_expect_eq(fake_log_lines(notes(), "BAR0"), 0);
    vfio_p2p_add(NULL, &view[0]);
    vfio_p2p_remove(NULL, &view[0]);
}

Test(vfio_p2p, huge_bars_have_a_bounded_number_of_chunks)
{
    view[0].region.size = view[0].region.area[0].size = 256 * GIB;
    create();
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.mapped, 1024);
    cr_expect(is_mapped(BASE + 255 * GIB, 256 * MIB, VA + 255 * GIB));
}

static void *remover(void *opaque)
{
    vfio_p2p_remove(p2p, opaque);
    return NULL;
}

/* Gone while a chunk is being mapped: that one is undone, and none follows. */
Test(vfio_p2p, removed_in_the_middle)
{
    pthread_t thread;

    hold(true);
    create();
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.held, 1);
    unsigned waits = fake_cond_waits;
    cr_assert_eq(pthread_create(&thread, NULL, remover, &view[0]), 0);
    fake_cond_await(waits + 1);
    hold(false);
    pthread_join(thread, NULL);
    cr_expect_eq(io.maps, 1);
    cr_expect_eq(io.mapped, 0);
    cr_expect_str_eq(notes(), "");
}

Test(vfio_p2p, removed_in_the_middle_of_a_failure)
{
    pthread_t thread;

    hold(true);
    io.fail_at = 1;
    io.err = -EFAULT; /* as the device did not answer any more */
    create();
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.held, 1);
    unsigned waits = fake_cond_waits;
    cr_assert_eq(pthread_create(&thread, NULL, remover, &view[0]), 0);
    fake_cond_await(waits + 1);
    hold(false);
    pthread_join(thread, NULL);
    vfio_p2p_add(p2p, &view[1]);
    wait_for(&io.mapped, 4);
    cr_expect_eq(fake_log_lines(notes(), "cannot"), 0);
}

/* Who takes another BAR away waits for nothing in here. */
Test(vfio_p2p, another_is_removed_meanwhile)
{
    create();
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.mapped, 4);
    hold(true);
    vfio_p2p_add(p2p, &view[1]);
    wait_for(&io.held, 1);
    vfio_p2p_remove(p2p, &view[0]);
    cr_expect_eq(io.mapped, 0);
    hold(false);
    wait_for(&io.mapped, 4);
}

Test(vfio_p2p, moved)
{
    create();
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.mapped, 4);
    vfio_p2p_remove(p2p, &view[0]);
    view[0].addr = BASE + 8 * GIB;
    view[1].addr = BASE; /* takes its place */
    vfio_p2p_add(p2p, &view[1]);
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.mapped, 8);
    cr_expect(is_mapped(BASE, 64 * MIB, view[1].va));
    cr_expect(is_mapped(BASE + 8 * GIB, 64 * MIB, VA));
}

/* Nothing before the BARs have been left alone for the time given. */
Test(vfio_p2p, settles_first)
{
    int64_t clock = loop_now(CLOCK_MONOTONIC) + 3600 * NS_PER_S, start = clock;
    unsigned waits = fake_cond_waits;

    fake_clock_ns = &clock;
    cr_assert_eq(vfio_p2p_create(&p2p, &io.iommu, 5 * NS_PER_S), 0);
    fake_cond_await(waits + 1); /* for work */
    vfio_p2p_add(p2p, &view[0]);
    fake_cond_await(waits + 2); /* for the time */
    clock += 4 * NS_PER_S;
    vfio_p2p_add(p2p, &view[1]); /* wakes it */
    fake_cond_await(waits + 3);
    clock += 4 * NS_PER_S;
    vfio_p2p_remove(p2p, &view[1]);
    cr_expect_eq(io.maps, 0);
    fake_cond_hurry = true;
    vfio_p2p_add(p2p, &view[1]);
    wait_for(&io.mapped, 8);
    vfio_p2p_stop(p2p);
    cr_expect_eq(clock, start + 13 * NS_PER_S);
    vfio_p2p_destroy(p2p);
    p2p = NULL;
    fake_clock_ns = NULL;
}

Test(vfio_p2p, stopped_for_good)
{
    create();
    vfio_p2p_stop(p2p);
    vfio_p2p_add(p2p, &view[0]);
    vfio_p2p_stop(p2p);
    cr_expect_eq(io.maps, 0);
}

static void *stopper(void *opaque)
{
    (void)opaque;
    vfio_p2p_destroy(p2p);
    return NULL;
}

Test(vfio_p2p, the_end_waits_for_one_chunk)
{
    pthread_t thread;

    hold(true);
    create();
    vfio_p2p_add(p2p, &view[0]);
    vfio_p2p_add(p2p, &view[1]);
    wait_for(&io.held, 1);
    unsigned waits = fake_cond_waits;
    cr_assert_eq(pthread_create(&thread, NULL, stopper, NULL), 0);
    fake_cond_await(waits + 1);
    hold(false);
    pthread_join(thread, NULL);
    p2p = NULL;
    cr_expect_eq(io.maps, 1);
    cr_expect_eq(io.mapped, 0);
}

/* ---- failures ---- */

static void expect_failure(int err, const char *word)
{
    io.fail_at = 3;
    io.err = err;
    create();
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.maps, 3);
    vfio_p2p_add(p2p, &view[1]); /* is tried nevertheless */
    wait_for(&io.maps, 7);
    const char *log = notes();
    cr_expect_eq(io.mapped, 4, "nothing is left of BAR0");
    cr_expect_eq(fake_log_lines(log, "0000:42:00.0: cannot map BAR0 at "
                                     "0x4000000000-0x400fffffff for its peers' DMA: "),
                 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, word), 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, "BAR1 is a peer's"), 1, "%s", log);
}

Test(vfio_p2p, a_failure_is_one_note)
{
    expect_failure(-EEXIST, "File exists");
}

Test(vfio_p2p, a_fault_in_the_middle_is_that_bars)
{
    expect_failure(-EFAULT, "Bad address");
}

Test(vfio_p2p, too_many_mappings)
{
    expect_failure(-ENOSPC, "it needs 4 mappings and fewer are left; raise "
                            "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit");
}

Test(vfio_p2p, outside_the_iommus_ranges)
{
    io.nr = 2;
    io.range[0] = (struct vfio_iova_range){0, 0xfedfffff};
    io.range[1] = (struct vfio_iova_range){0xfef00000, BASE + GIB + 256 * MIB - 2};
    create();
    vfio_p2p_add(p2p, &view[1]);
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.mapped, 4);
    vfio_p2p_remove(p2p, &view[0]);
    vfio_p2p_add(p2p, &view[0]); /* the thread has looked at both when this is mapped again */
    wait_for(&io.maps, 8);
    const char *log = notes();
    cr_expect_eq(fake_log_lines(log, "cannot map BAR1 at 0x4040000000-0x404fffffff for its "
                                     "peers' DMA: the IOMMU takes only 0x0-0xfedfffff, "
                                     "0xfef00000-0x404ffffffe"),
                 1, "%s", log);
    cr_expect_eq(io.mapped, 4);
}

/* As through iommufd: the first one tells for all. */
Test(vfio_p2p, a_kernel_that_maps_no_bars)
{
    io.fail_at = 1;
    io.err = -EFAULT;
    hold(true);
    create();
    vfio_p2p_add(p2p, &view[0]);
    wait_for(&io.held, 1);
    vfio_p2p_add(p2p, &view[1]);
    hold(false);
    fake_log_await("iommu0: cannot map BARs for peers' DMA: Bad address");
    fake_log();
    vfio_p2p_remove(p2p, &view[0]); /* the thread would be at the next one now */
    cr_expect_str_eq(notes(), "");
    cr_expect_eq(io.maps, 1);
}

Test(vfio_p2p, a_guest_cannot_fill_the_log)
{
    create();
    for (unsigned i = 0; i < 40; i++) {
        vfio_p2p_add(p2p, &view[0]);
        wait_for(&io.mapped, 4);
        vfio_p2p_remove(p2p, &view[0]);
    }
    cr_expect_leq(fake_log_lines(notes(), "minivmm:"), 16);
}

Test(vfio_p2p, limits_that_cannot_be_had)
{
    io.nr = -ENOTTY;
    cr_expect_eq(vfio_p2p_create(&p2p, &io.iommu, 0), -ENOTTY);
    cr_expect_null(p2p);
}

/* ---- behind a PCI function: BAR0 of 16 MiB and BAR1 of 64 KiB without two pages ---- */

static struct world w;

static void set_up_world(void)
{
    set_up();
    world_init(&w);
    create();
    w.config.p2p = p2p;
    io.decodes = &w.vfio;
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    wait_for(&io.mapped, 3);
}

static void tear_down_world(void)
{
    world_fini(&w); /* takes the mappings away */
    cr_expect_eq(io.mapped, 0);
    tear_down();
}

TestSuite(vfio_p2p_pci, .init = set_up_world, .fini = tear_down_world, .timeout = 60);

static bool both_at(uint64_t bar0, uint64_t bar1)
{
    uint8_t *va = w.pci->bar[1].view.va;

    return is_mapped(bar0, 16 * MIB, w.pci->bar[0].view.va) && is_mapped(bar1, 0x2000, va) &&
           is_mapped(bar1 + 0x4000, 0xc000, va + 0x4000);
}

Test(vfio_p2p_pci, mapped_where_the_guest_has_them)
{
    cr_expect(both_at(WORLD_BAR0, WORLD_BAR1));
}

Test(vfio_p2p_pci, they_move)
{
    cfg_write(&w, PCI_BASE_ADDRESS_0, 4, 0xd0000000);
    cfg_write(&w, PCI_BASE_ADDRESS_2, 4, 0x20);
    wait_for(&io.mapped, 3);
    cr_expect(both_at(0xd0000000, 0x20e0000000));
}

/* unmap() looks whether the device still decodes. */
Test(vfio_p2p_pci, decoding_off)
{
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_IO);
    cr_expect_eq(io.mapped, 0);
    cr_expect_not(w.vfio.config[PCI_COMMAND] & PCI_COMMAND_MEMORY);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    wait_for(&io.mapped, 3);
}

Test(vfio_p2p_pci, asleep)
{
    cfg_write(&w, 0x44, 2, 3);
    cr_expect_eq(io.mapped, 0);
    cfg_write(&w, 0x44, 2, 0);
    wait_for(&io.mapped, 3);
}

Test(vfio_p2p_pci, function_level_reset)
{
    unsigned maps = io.maps;

    cfg_write(&w, 0x78, 2, PCI_EXP_DEVCTL_BCR_FLR);
    wait_for(&io.maps, maps + 3);
    cr_expect(both_at(WORLD_BAR0, WORLD_BAR1), "gone and mapped again");
}

Test(vfio_p2p_pci, guest_reset)
{
    cr_expect_eq(vfio_pci_reset(w.pci), 0);
    cr_expect_eq(io.mapped, 0);
}

Test(vfio_p2p_pci, slots_that_failed)
{
    cr_expect(vfio_pci_drop_slots(w.pci));
    cr_expect_eq(io.mapped, 0);
}

static void *dropper(void *opaque)
{
    (void)opaque;
    for (unsigned i = 0; i < 2000; i++)
        vfio_pci_drop_slots(w.pci);
    return NULL;
}

/* vCPUs that switch decoding, move a BAR and lose slots, while chunks are being mapped: each is
 * undone as it was done (unmap() looks), and nothing is mapped twice (map() looks). */
Test(vfio_p2p_pci, all_at_once)
{
    pthread_t thread;

    io.decodes = NULL; /* dropped slots have no order */
    cr_assert_eq(pthread_create(&thread, NULL, dropper, NULL), 0);
    for (unsigned i = 0; i < 500; i++) {
        cfg_write(&w, PCI_COMMAND, 2, 0);
        cfg_write(&w, PCI_BASE_ADDRESS_0, 4, WORLD_BAR0 + (i % 7 << 24));
        cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    }
    pthread_join(thread, NULL);
    cfg_write(&w, PCI_COMMAND, 2, 0);
    cr_expect_eq(io.mapped, 0);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    wait_for(&io.mapped, 3);
}
