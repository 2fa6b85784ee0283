/*
 * vfio_p2p.c: see vfio_p2p.h.
 *
 * Why a thread. The kernel's type 1 IOMMU takes a BAR's pages out of our page tables (Linux
 * drivers/vfio/vfio_iommu_type1.c, vaddr_get_pfns()), which before Linux 6.12 to 6.15 is one
 * fault for each 4 KiB: minutes for 64 GiB, in one system call that cannot be interrupted and
 * that any other map or unmap waits for. Hence chunks: between two of them the thread looks
 * whether the BAR is still there, so that whoever takes it away waits for one chunk at most,
 * and for the unmapping of what is mapped.
 *
 * When a mapping goes. It is there only while the BAR's memory slots are, that is, while the
 * device answers: not with memory decoding off, in D3hot, during a reset. The kernel would let
 * it stay: it takes the CPU's mappings away then (vfio_pci_zap_bars()), and neither tells the
 * IOMMU nor holds pages of a BAR; and as the BAR has its place on the host at all times, the
 * entry would still lead to the guest's own device. But a peer's write to a BAR that does not
 * answer is an Unsupported Request on the host's bus, which some platforms take for a fatal
 * error; one that is not mapped ends in the IOMMU, which is made for that.
 *
 * A mapping cannot be split (v2), so each chunk is unmapped as it was mapped; a container has
 * 65535 of them, hence their limit for each BAR.
 */
#include "vfio/vfio_p2p.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vfio/vfio.h"
#include "vfio/vfio_view.h"
#include "vmm/log.h"
#include "vmm/loop.h"
#include "vmm/util.h"

/* A thousandth of 64 GiB: where those take minutes, a chunk takes tenths of a second. */
#define CHUNK_MIN  (64 * MIB)
#define CHUNKS_MAX 1024

struct p2p_bar {
    struct p2p_bar *next;
    struct vfio_view *view;
    uint64_t chunk; /* a power of two */
    uint64_t done;  /* what lies below is mapped */
    bool wanted;    /* to be mapped, or mapped as a whole */
    bool complete;
};

struct vfio_p2p {
    struct vfio_iommu *iommu;
    struct vfio_dma_limits limits;
    int64_t settle;
    pthread_t thread;
    bool running; /* it has to be joined: main thread */

    pthread_mutex_t lock;   /* of all below, and of what BARS points to */
    pthread_cond_t changed; /* for the thread */
    pthread_cond_t idle;    /* busy has changed */
    struct p2p_bar *bars;
    const struct p2p_bar *busy; /* a chunk of it is being mapped, without the lock */
    int64_t due;                /* nothing before this (CLOCK_MONOTONIC) */
    bool worked;                /* a chunk could be mapped, some time */
    bool stop;
};

/* ---- chunks ---- */

/* The next direct part of the BAR at or above FROM, cut at multiples of the chunk size: then it
 * is aligned for huge pages, and the same whether it is mapped or unmapped. */
static bool next_piece(const struct p2p_bar *bar, uint64_t from, struct vfio_area *piece)
{
    const struct vfio_region *region = &bar->view->region;
    for (unsigned i = 0; i < region->areas; i++) {
        uint64_t start = MAX(region->area[i].offset, from);
        uint64_t end = region->area[i].offset + region->area[i].size;
        if (start >= end)
            continue;
        end = MIN(end, align_down(start, bar->chunk) + bar->chunk);
        *piece = (struct vfio_area){start, end - start};
        return true;
    }
    return false;
}

/* With the lock held all the time: the thread cannot begin with another chunk meanwhile. */
static void unmap(struct vfio_p2p *p2p, struct p2p_bar *bar)
{
    struct vfio_area piece = {0};
    while (next_piece(bar, piece.offset + piece.size, &piece) && piece.offset < bar->done)
        p2p->iommu->ops->unmap(p2p->iommu, bar->view->addr + piece.offset, piece.size);
    bar->done = 0;
}

/* ---- the thread ---- */

static void note_failure(const struct vfio_p2p *p2p, const struct p2p_bar *bar, int err)
{
    struct vfio_view *view = bar->view;
    struct vfio_area piece = {0};
    unsigned pieces = 0;
    char why[320];

    while (next_piece(bar, piece.offset + piece.size, &piece))
        pieces++;
    if (err == -ERANGE)
        snprintf(why, sizeof(why), "the IOMMU takes only %s",
                 vfio_dma_ranges_text(&p2p->limits).s);
    else if (err == -ENOSPC)
        snprintf(why, sizeof(why), "it needs %u mappings and fewer are left; raise %s", pieces,
                 "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit");
    else
        snprintf(why, sizeof(why), "%s; dmesg may tell more", strerror(-err));
    if (log_limit(&view->complaints))
        log_note(view->dev->name,
                 "cannot map %s%u at 0x%" PRIx64 "-0x%" PRIx64 " for its peers' DMA: %s",
                 view->noun, view->region.index, view->addr, view->addr + view->region.size - 1,
                 why);
}

/* What was mapped of it goes: a BAR that can be reached in parts is worse than none. */
static void failed(struct vfio_p2p *p2p, struct p2p_bar *bar, int err)
{
    unmap(p2p, bar);
    bar->wanted = false;
    if (err != -EFAULT || p2p->worked) {
        note_failure(p2p, bar, err);
        return;
    }
    /* iommufd pins what it maps, and a BAR has no pages to pin: it is so for all of them. */
    p2p->stop = true;
    log_note(p2p->iommu->name,
             "cannot map BARs for peers' DMA: %s, as it is with iommufd; use /dev/vfio/vfio "
             "where devices have to reach each other",
             strerror(-err));
}

static void note_success(const struct p2p_bar *bar)
{
    struct vfio_view *view = bar->view;
    if (log_limit(&view->complaints))
        log_note(view->dev->name,
                 "%s%u is a peer's DMA target from 0x%" PRIx64 " to 0x%" PRIx64, view->noun,
                 view->region.index, view->addr, view->addr + view->region.size - 1);
}

/* One chunk; gives the lock up meanwhile. BAR stays, as it is busy, but may not be wanted any
 * more afterwards. */
static void map_chunk(struct vfio_p2p *p2p, struct p2p_bar *bar)
{
    const struct vfio_view *view = bar->view;
    struct vfio_area piece;
    int err = -ERANGE;
    if (next_piece(bar, bar->done, &piece) &&
        vfio_dma_in_range(&p2p->limits, view->addr, view->region.size)) {
        p2p->busy = bar;
        pthread_mutex_unlock(&p2p->lock);
        err = p2p->iommu->ops->map(p2p->iommu, view->addr + piece.offset, piece.size,
                                   view->va + piece.offset, -1, 0);
        pthread_mutex_lock(&p2p->lock);
        p2p->busy = NULL;
        pthread_cond_broadcast(&p2p->idle);
    }
    if (!err) {
        bar->done = piece.offset + piece.size;
        p2p->worked = true;
    }
    if (!bar->wanted)
        return;
    bar->complete = !err && !next_piece(bar, bar->done, &piece);
    if (err)
        failed(p2p, bar, err);
    else if (bar->complete)
        note_success(bar);
}

static struct p2p_bar *next_bar(const struct vfio_p2p *p2p)
{
    struct p2p_bar *bar = p2p->bars;
    while (bar && (!bar->wanted || bar->complete))
        bar = bar->next;
    return bar;
}

static void *work(void *opaque)
{
    struct vfio_p2p *p2p = opaque;
    pthread_mutex_lock(&p2p->lock);
    while (!p2p->stop) {
        struct p2p_bar *bar = next_bar(p2p);
        const struct timespec due = {p2p->due / NS_PER_S, p2p->due % NS_PER_S};
        if (!bar)
            pthread_cond_wait(&p2p->changed, &p2p->lock);
        else if (loop_now(CLOCK_MONOTONIC) < p2p->due)
            pthread_cond_timedwait(&p2p->changed, &p2p->lock, &due);
        else
            map_chunk(p2p, bar);
    }
    pthread_mutex_unlock(&p2p->lock);
    return NULL;
}

/* ---- what others call ---- */

int vfio_p2p_create(struct vfio_p2p **out, struct vfio_iommu *iommu, int64_t settle)
{
    struct vfio_p2p *p2p = calloc(1, sizeof(*p2p));
    pthread_condattr_t monotonic;
    if (!p2p)
        return -ENOMEM;
    p2p->iommu = iommu;
    p2p->settle = settle;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p2p->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&p2p->idle, NULL);
    pthread_mutex_init(&p2p->lock, NULL);
    int err = vfio_dma_get_limits(iommu, &p2p->limits);
    if (!err)
        err = -pthread_create(&p2p->thread, NULL, work, p2p);
    p2p->running = !err;
    if (err)
        vfio_p2p_destroy(p2p);
    else
        *out = p2p;
    return err;
}

void vfio_p2p_stop(struct vfio_p2p *p2p)
{
    if (!p2p || !p2p->running)
        return;
    pthread_mutex_lock(&p2p->lock);
    p2p->stop = true;
    pthread_cond_signal(&p2p->changed);
    pthread_mutex_unlock(&p2p->lock);
    pthread_join(p2p->thread, NULL);
    p2p->running = false;
}

void vfio_p2p_destroy(struct vfio_p2p *p2p)
{
    if (!p2p)
        return;
    vfio_p2p_stop(p2p);
    while (p2p->bars)
        vfio_p2p_remove(p2p, p2p->bars->view);
    pthread_mutex_destroy(&p2p->lock);
    pthread_cond_destroy(&p2p->idle);
    pthread_cond_destroy(&p2p->changed);
    free(p2p);
}

void vfio_p2p_add(struct vfio_p2p *p2p, struct vfio_view *view)
{
    if (!p2p || !view->region.areas)
        return;
    struct p2p_bar *bar = malloc(sizeof(*bar));
    if (!bar)
        return; /* peers do not reach it; nobody could be told more */
    *bar = (struct p2p_bar){.view = view, .chunk = CHUNK_MIN, .wanted = true};
    while (view->region.size / bar->chunk > CHUNKS_MAX)
        bar->chunk *= 2;
    pthread_mutex_lock(&p2p->lock);
    bar->next = p2p->bars;
    p2p->bars = bar;
    p2p->due = loop_now(CLOCK_MONOTONIC) + p2p->settle;
    pthread_cond_signal(&p2p->changed);
    pthread_mutex_unlock(&p2p->lock);
}

void vfio_p2p_remove(struct vfio_p2p *p2p, const struct vfio_view *view)
{
    if (!p2p)
        return;
    pthread_mutex_lock(&p2p->lock);
    struct p2p_bar **link = &p2p->bars;
    while (*link && (*link)->view != view)
        link = &(*link)->next;
    struct p2p_bar *bar = *link;
    if (bar) {
        *link = bar->next;
        bar->wanted = false;
        /* First of all: the thread shall not go on with another BAR, whose chunk the kernel
         * would let the unmapping wait for. */
        p2p->due = loop_now(CLOCK_MONOTONIC) + p2p->settle;
        while (p2p->busy == bar)
            pthread_cond_wait(&p2p->idle, &p2p->lock);
        unmap(p2p, bar);
        free(bar);
    }
    pthread_mutex_unlock(&p2p->lock);
}

uint64_t vfio_p2p_bytes(struct vfio_p2p *p2p)
{
    uint64_t sum = 0;
    if (!p2p)
        return 0;
    pthread_mutex_lock(&p2p->lock);
    for (const struct p2p_bar *bar = p2p->bars; bar; bar = bar->next) {
        struct vfio_area piece = {0};
        while (next_piece(bar, piece.offset + piece.size, &piece) && piece.offset < bar->done)
            sum += piece.size;
    }
    pthread_mutex_unlock(&p2p->lock);
    return sum;
}
