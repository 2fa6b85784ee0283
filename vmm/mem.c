/*
 * mem.c: guest RAM: one memfd, mapped once and shared.
 *
 * The mapping is contiguous; the guest sees it in one or two pieces around the 32-bit hole
 * (layout.h). It begins at a multiple of the largest page that could back it, because KVM and
 * the IOMMU use a huge page only where guest and host addresses agree below its size. There is
 * no way to clear it: a warm reset of a real machine keeps RAM, so a guest reset does too.
 *
 * Its pages: the host's ordinary ones, or huge ones that were reserved (hugetlb;
 * Documentation/admin-guide/mm/hugetlbpage.rst). A mapping of the latter takes a reservation,
 * but one that knows no nodes: so they are all taken at once, and none is missing later, when
 * it would be a SIGBUS.
 *
 * Left out: ballooning (unsafe once a device has RAM pinned). Owned by the main thread; read by
 * all.
 */
#include "vmm/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/util.h"

static int check_size(uint64_t size, uint64_t page)
{
    struct sysinfo info;
    if (!size || size % LAYOUT_PAGE_SIZE) {
        log_error(
            "--memory",
            "cannot give the guest %llu bytes of RAM: not a multiple of 4096 above 0; give "
            "a size such as 512M",
            (unsigned long long)size);
        return -EINVAL;
    }
    if (size % page) {
        log_error("--memory",
                  "cannot give the guest %llu MiB of RAM on huge pages of %llu MiB: not a "
                  "multiple; give --memory %lluM",
                  size / MIB, page / MIB, align_up(size, page) / MIB);
        return -EINVAL;
    }
    if (sysinfo(&info))
        return 0; /* no figure to compare with: faults will tell */
    uint64_t host = ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
    if (size > host) {
        log_error(
            "--memory",
            "cannot give the guest %llu MiB of RAM: the host has %llu MiB of RAM and swap; "
            "give less",
            size / MIB, host / MIB);
        return -ENOMEM;
    }
    return 0;
}

/* SIZE bytes of FD at a multiple of the largest page that could back it: room for one more is
 * reserved. NULL with errno. */
static void *map_aligned(struct mem *mem, uint64_t size)
{
    uint64_t align = size >= GIB ? GIB : 2 * MIB;
    void *room =
        mmap(NULL, size + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return NULL;
    mem->room = room;
    mem->room_size = size + align;
    void *hva = (uint8_t *)room + (align_up((uintptr_t)room, align) - (uintptr_t)room);
    hva = mmap(hva, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, mem->fd, 0);
    return hva == MAP_FAILED ? NULL : hva;
}

static void set_regions(struct mem *mem, uint8_t *hva, uint64_t size)
{
    uint64_t low = MIN(size, LAYOUT_LOW_RAM_END);
    uint64_t high = size - low;
    uint64_t high_gpa = LAYOUT_HIGH_RAM;
    if (!range_within(high_gpa, high, LAYOUT_HT))
        high_gpa = LAYOUT_HT_END;
    mem->region[0] = (struct mem_region){.gpa = 0, .size = low, .hva = hva};
    mem->region[1] =
        (struct mem_region){.gpa = high_gpa, .size = high, .hva = hva + low, .fd_offset = low};
    mem->nr = high ? 2 : 1;
}

/*
 * Huge pages come from the node or not at all (MPOL_BIND): taking them fails in good order, and
 * the user reserved them there. Ordinary ones come from elsewhere when the node is full
 * (MPOL_PREFERRED): to insist would call the kernel's OOM killer, with memory free on other
 * nodes. The policy of ordinary pages is the file's, so it holds for whoever touches one.
 * hugetlb keeps none for a file: it is the mapping's, which mem_populate() takes them by (but
 * before Linux 5.14, where it takes them by the file: there they may be another node's).
 */
static int bind_node(void *hva, uint64_t size, const struct mem_backing *backing)
{
    enum { NODES = 1024, BITS = 8 * sizeof(unsigned long) }; /* Linux has no more */
    unsigned long mask[NODES / BITS] = {0};
    int mode = backing->huge ? MPOL_BIND : MPOL_PREFERRED;
    int err = -EINVAL;
    if (!backing->on_node)
        return 0;
    if (backing->node < NODES) {
        mask[backing->node / BITS] = 1UL << backing->node % BITS;
        /* The kernel takes one bit less than it is told. */
        err = syscall(SYS_mbind, hva, size, mode, mask, NODES + 1UL, 0UL) ? -errno : 0;
    }
    if (err)
        log_error("--numa",
                  "cannot place RAM on node %u: %s; give a node that has memory (cat "
                  "/sys/devices/system/node/has_memory)",
                  backing->node, strerror(-err));
    return err;
}

static int create_fd(const struct mem_backing *backing)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    if (backing->huge)
        flags |= MFD_HUGETLB | (unsigned)__builtin_ctzll(backing->huge) << MFD_HUGE_SHIFT;
    return memfd_create("guest-ram", flags);
}

int mem_init_backed(struct mem *mem, uint64_t size, const struct mem_backing *backing)
{
    uint64_t page = backing->huge ? backing->huge : LAYOUT_PAGE_SIZE;
    void *hva = NULL;
    *mem = (struct mem){.fd = -1};
    int err = check_size(size, page);
    if (err)
        return err;
    mem->size = size;
    mem->fd = create_fd(backing);
    /* Sealed: a vfio-user server that shortened it would make our accesses a SIGBUS. */
    if (mem->fd >= 0 && !ftruncate(mem->fd, (off_t)size) &&
        !fcntl(mem->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        hva = map_aligned(mem, size);
    if (!hva) {
        err = -errno;
        log_error("--memory", "cannot map %llu MiB of guest RAM: %s; give less, or %s",
                  size / MIB, strerror(-err),
                  err == -EFBIG   ? "raise the limit (ulimit -f)"
                  : backing->huge ? "reserve more huge pages (minivmm host check shows them)"
                                  : "raise the limit (ulimit -v)");
        goto fail;
    }
    madvise(hva, size, MADV_HUGEPAGE); /* best effort */
    if ((err = bind_node(hva, size, backing)))
        goto fail;
    set_regions(mem, hva, size);
    mem->backing = *backing;
    if (backing->huge && (err = mem_populate(mem)))
        goto fail;
    return 0;

fail:
    mem_fini(mem);
    return err;
}

int mem_init(struct mem *mem, uint64_t size)
{
    return mem_init_backed(mem, size, &(const struct mem_backing){.huge = 0});
}

int mem_take(const struct mem *mem)
{
    return mem->backing.populate && !mem->backing.huge ? mem_populate(mem) : 0;
}

void mem_fini(struct mem *mem)
{
    if (!mem->size)
        return;
    if (mem->room)
        munmap(mem->room, mem->room_size);
    if (mem->fd >= 0)
        close(mem->fd);
    *mem = (struct mem){.fd = -1};
}

void *mem_at(const struct mem *mem, uint64_t gpa, uint64_t len)
{
    for (unsigned i = 0; i < mem->nr; i++) {
        const struct mem_region *r = &mem->region[i];
        if (gpa >= r->gpa && range_within(gpa - r->gpa, len, r->size))
            return r->hva + (gpa - r->gpa);
    }
    return NULL;
}
