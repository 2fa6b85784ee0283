/*
 * virtio.c: a driver for minivmm's virtio devices, found on bus 0: a disk and a source of random
 * bytes (VIRTIO 1.2; modern PCI interface, split queues, indirect tables), by MSI-X and by INTx.
 *
 * The disk's file is text: every sector is 32 lines of 16 bytes that say which sector it is,
 * beginning with `before`. What this guest writes begins with `guest.`; tests/tiny.sh compares
 * the file with what it has to be then. Words: `sectors=N` (size of the disk), `ro` (read only),
 * `disks=N` (how many there are), `reboot` (all once more after a reset of the machine with
 * requests under way).
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "lib.h"

enum { BLK = 0x10421af4, RNG = 0x10441af4, CAP_VENDOR = 9 };
enum { MSIX_ENABLE = 0x8000, INTX_VECTOR = 0x60, MSI_VECTOR = 0x61, CONFIG_VECTOR = 0x62 };
enum { SIZE = 16, SECTOR = 512, LINE = 16, CMOS_REBOOTED = 0x50, REBOOTED = 0xb2 };
enum { FIRST = 1000, SECTORS = 128, GONE = 1504, GONE_SECTORS = 8 }; /* written; discarded */
enum { PARALLEL = 8, PIECE = SECTORS / PARALLEL };                   /* requests; sectors each */

struct device {
    uint32_t bdf;
    uint64_t common, notify, isr, config;
    uint16_t next_avail, next_used;
    struct vring_desc desc[SIZE] __attribute__((aligned(16)));
    struct {
        uint16_t flags, idx, ring[SIZE], event;
    } avail __attribute__((aligned(4)));
    struct {
        uint16_t flags, idx;
        struct vring_used_elem ring[SIZE];
        uint16_t event;
    } used __attribute__((aligned(4)));
};

struct request {
    struct virtio_blk_outhdr header;
    uint8_t status;
    struct vring_desc table[3] __attribute__((aligned(16)));
};

static struct device blk, rng;
static struct device *intx_of; /* whose ISR the handler reads */
static volatile uint32_t irqs, config_irqs, causeless;
static volatile bool early; /* this KVM ends a level interrupt when it delivers it */
static struct request request[PARALLEL];
static uint8_t data[SECTORS * SECTOR] __attribute__((aligned(4096)));
static uint8_t random[2][64];

static void on_message(struct trap *trap)
{
    if (trap->vector == CONFIG_VECTOR)
        config_irqs++;
    else
        irqs++;
    lapic_eoi();
}

static void on_intx(struct trap *trap)
{
    uint8_t isr = MMIO(uint8_t, intx_of->isr);

    (void)trap;
    early = !lapic_in_service(INTX_VECTOR);
    irqs += isr & 1;
    config_irqs += isr >> 1 & 1;
    causeless += !isr;
    lapic_eoi();
}

static bool find(struct device *dev, uint32_t id, unsigned nth)
{
    for (unsigned slot = 1; slot < 32; slot++) {
        dev->bdf = PCI_BDF(0, slot, 0);
        if (pci_read32(dev->bdf, 0) == id && nth-- == 0)
            return true;
    }
    return false;
}

static void map(struct device *dev)
{
    uint64_t bar = pci_read32(dev->bdf, PCI_BAR0) & ~0xfu;
    unsigned cap = pci_read8(dev->bdf, PCI_CAPABILITIES);

    pci_write16(dev->bdf, PCI_COMMAND, COMMAND_MEM | COMMAND_MASTER);
    for (; cap; cap = pci_read8(dev->bdf, cap + 1)) {
        uint64_t at = bar + pci_read32(dev->bdf, cap + VIRTIO_PCI_CAP_OFFSET);
        if (pci_read8(dev->bdf, cap) != CAP_VENDOR)
            continue;
        switch (pci_read8(dev->bdf, cap + VIRTIO_PCI_CAP_CFG_TYPE)) {
        case VIRTIO_PCI_CAP_COMMON_CFG:
            dev->common = at;
            break;
        case VIRTIO_PCI_CAP_NOTIFY_CFG:
            dev->notify = at; /* of queue 0, whatever the multiplier */
            break;
        case VIRTIO_PCI_CAP_ISR_CFG:
            dev->isr = at;
            break;
        case VIRTIO_PCI_CAP_DEVICE_CFG:
            dev->config = at;
            break;
        }
    }
}

static uint8_t status(const struct device *dev)
{
    return MMIO(uint8_t, dev->common + VIRTIO_PCI_COMMON_STATUS);
}

static void set_status(const struct device *dev, unsigned value)
{
    MMIO(uint8_t, dev->common + VIRTIO_PCI_COMMON_STATUS) = (uint8_t)value;
}

static bool wait_reset(const struct device *dev)
{
    set_status(dev, 0);
    for (unsigned i = 0; i < 1000 && status(dev); i++)
        delay_ms(1);
    return !status(dev);
}

static void set_address(uint64_t reg, const void *at)
{
    mmio_write32(reg, (uint32_t)(uintptr_t)at);
    mmio_write32(reg + 4, (uint32_t)((uintptr_t)at >> 32));
}

/* Message N of the function, unmasked. */
static void msix_entry(const struct device *dev, unsigned n, unsigned vector)
{
    unsigned cap = pci_capability(dev->bdf, CAP_MSIX);
    uint64_t at = (pci_read32(dev->bdf, PCI_BAR0) & ~0xfu) + pci_read32(dev->bdf, cap + 4) + 16 * n;

    mmio_write32(at, LAPIC | lapic_id() << 12);
    mmio_write32(at + 4, 0);
    mmio_write32(at + 8, vector);
    mmio_write32(at + 12, 0);
}

/* 3.1.1: reset, features, the queue, go. */
static bool start(struct device *dev, uint32_t features, bool msix)
{
    const unsigned driver = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    unsigned cap = pci_capability(dev->bdf, CAP_MSIX);

    memset(&dev->next_avail, 0, sizeof(*dev) - offsetof(struct device, next_avail));
    wait_reset(dev);
    set_status(dev, driver);
    mmio_write32(dev->common + VIRTIO_PCI_COMMON_GFSELECT, 0);
    mmio_write32(dev->common + VIRTIO_PCI_COMMON_GF, features | 1u << VIRTIO_RING_F_INDIRECT_DESC);
    mmio_write32(dev->common + VIRTIO_PCI_COMMON_GFSELECT, 1);
    mmio_write32(dev->common + VIRTIO_PCI_COMMON_GF, 1u << (VIRTIO_F_VERSION_1 - 32));
    set_status(dev, driver | VIRTIO_CONFIG_S_FEATURES_OK);
    if (!(status(dev) & VIRTIO_CONFIG_S_FEATURES_OK))
        return false;

    pci_write16(dev->bdf, cap + 2, msix ? MSIX_ENABLE : 0);
    MMIO(uint16_t, dev->common + VIRTIO_PCI_COMMON_Q_SELECT) = 0;
    MMIO(uint16_t, dev->common + VIRTIO_PCI_COMMON_Q_SIZE) = SIZE;
    if (msix) {
        msix_entry(dev, 0, MSI_VECTOR);
        msix_entry(dev, 1, CONFIG_VECTOR);
        MMIO(uint16_t, dev->common + VIRTIO_PCI_COMMON_Q_MSIX) = 0;
        MMIO(uint16_t, dev->common + VIRTIO_PCI_COMMON_MSIX) = 1;
    } else {
        intx_of = dev;
        ioapic_route(pci_intx_gsi(dev->bdf), INTX_VECTOR, IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW);
    }
    set_address(dev->common + VIRTIO_PCI_COMMON_Q_DESCLO, dev->desc);
    set_address(dev->common + VIRTIO_PCI_COMMON_Q_AVAILLO, &dev->avail);
    set_address(dev->common + VIRTIO_PCI_COMMON_Q_USEDLO, &dev->used);
    MMIO(uint16_t, dev->common + VIRTIO_PCI_COMMON_Q_ENABLE) = 1;
    set_status(dev, driver | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
    return true;
}

static void stop(struct device *dev, bool msix)
{
    irq_enable(); /* what is on its way finds its cause */
    delay_ms(1);
    irq_disable();
    set_status(dev, 0);
    if (msix)
        pci_write16(dev->bdf, pci_capability(dev->bdf, CAP_MSIX) + 2, 0);
    else
        ioapic_route(pci_intx_gsi(dev->bdf), INTX_VECTOR, IOAPIC_MASKED);
}

static struct vring_desc buffer(const void *at, unsigned len, unsigned flags, unsigned next)
{
    return (struct vring_desc){(uintptr_t)at, len, (uint16_t)flags, (uint16_t)next};
}

static void offer(struct device *dev, uint16_t head)
{
    dev->avail.ring[dev->next_avail++ % SIZE] = head;
    __atomic_store_n(&dev->avail.idx, dev->next_avail, __ATOMIC_RELEASE);
}

/* Kicks, and waits for interrupts until NR chains more have come back; several may share one. */
static bool kick_and_wait(struct device *dev, unsigned nr)
{
    uint16_t want = (uint16_t)(dev->next_used + nr);

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    MMIO(uint16_t, dev->notify) = 0;
    do {
        if (!wait_irqs(&irqs, irqs + 1, 4000))
            return false;
    } while (__atomic_load_n(&dev->used.idx, __ATOMIC_ACQUIRE) != want);
    dev->next_used = want;
    return true;
}

/* ---- random bytes ---- */

static void random_bytes(bool msix)
{
    uint32_t before = irqs;
    bool came = check(start(&rng, 0, msix), "random source ready");

    for (unsigned i = 0; i < 2 && came; i++) {
        rng.desc[0] = buffer(random[i], sizeof(random[i]), VRING_DESC_F_WRITE, 0);
        offer(&rng, 0);
        came = kick_and_wait(&rng, 1) && rng.used.ring[i].len == sizeof(random[i]);
    }
    check(came && irqs == before + 2 && memcmp(random[0], random[1], sizeof(random[0])),
          "128 random bytes, %u interrupts", irqs - before);
    stop(&rng, msix);
}

/* ---- the disk ---- */

static void prepare(unsigned n, uint32_t type, uint64_t sector, void *at, unsigned len)
{
    struct request *r = &request[n];
    unsigned write = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID ? VRING_DESC_F_WRITE : 0;

    r->header = (struct virtio_blk_outhdr){.type = type, .sector = sector};
    r->status = 0xee;
    r->table[0] = buffer(&r->header, sizeof(r->header), VRING_DESC_F_NEXT, len ? 1 : 2);
    r->table[1] = buffer(at, len, VRING_DESC_F_NEXT | write, 2);
    r->table[2] = buffer(&r->status, 1, VRING_DESC_F_WRITE, 0);
    blk.desc[n] = buffer(r->table, sizeof(r->table), VRING_DESC_F_INDIRECT, 0);
    offer(&blk, (uint16_t)n);
}

/* Returns the status of one request. */
static uint8_t one(uint32_t type, uint64_t sector, void *at, unsigned len)
{
    prepare(0, type, sector, at, len);
    return kick_and_wait(&blk, 1) ? request[0].status : 0xdd;
}

/* SECTORS from FIRST on, by PARALLEL requests at once. */
static bool all(uint32_t type)
{
    bool good = true;

    for (unsigned i = 0; i < PARALLEL; i++)
        prepare(i, type, FIRST + i * PIECE, data + i * PIECE * SECTOR, PIECE * SECTOR);
    if (!kick_and_wait(&blk, PARALLEL))
        return false;
    for (unsigned i = 0; i < PARALLEL; i++)
        good &= request[i].status == VIRTIO_BLK_S_OK;
    return good;
}

static void line(uint8_t *to, const char *word, unsigned sector)
{
    memcpy(to, word, 7);
    for (unsigned i = 14; i >= 7; i--, sector /= 10)
        to[i] = (uint8_t)('0' + sector % 10);
    to[15] = '\n';
}

/* NR sectors from SECTOR on in DATA: written there, or found there. */
static bool text(const char *word, unsigned sector, unsigned nr, bool write)
{
    bool same = true;
    uint8_t want[LINE];

    for (unsigned i = 0; i < nr * SECTOR; i += LINE) {
        if (i % SECTOR == 0)
            line(want, word, sector + i / SECTOR);
        same &= !memcmp(data + i, want, LINE);
        if (write)
            memcpy(data + i, want, LINE);
    }
    return same;
}

static bool zeros(unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        if (data[i])
            return false;
    return true;
}

static void discard(void)
{
    struct virtio_blk_discard_write_zeroes range = {GONE, GONE_SECTORS, 0};

    check(one(VIRTIO_BLK_T_DISCARD, 0, &range, sizeof(range)) == VIRTIO_BLK_S_OK &&
              one(VIRTIO_BLK_T_IN, GONE, data, GONE_SECTORS * SECTOR) == VIRTIO_BLK_S_OK &&
              zeros(GONE_SECTORS * SECTOR),
          "discarded sectors read as zeros");
}

static uint32_t blk_features(void)
{
    mmio_write32(blk.common + VIRTIO_PCI_COMMON_DFSELECT, 0);
    return mmio_read32(blk.common + VIRTIO_PCI_COMMON_DF);
}

static void disk(bool msix, unsigned sectors, bool ro)
{
    uint32_t features = blk_features() & (1u << VIRTIO_BLK_F_FLUSH | 1u << VIRTIO_BLK_F_DISCARD |
                                          1u << VIRTIO_BLK_F_RO);
    bool first = memcmp(data, "guest. ", 7);
    char id[VIRTIO_BLK_ID_BYTES + 1] = "";

    if (!check(start(&blk, features, msix), "disk ready, features %x", features))
        return;
    check(MMIO(uint32_t, blk.config) == sectors && !(features >> VIRTIO_BLK_F_RO & 1) == !ro,
          "%u sectors, %s", MMIO(uint32_t, blk.config), ro ? "read only" : "writable");
    check(one(VIRTIO_BLK_T_GET_ID, 0, id, VIRTIO_BLK_ID_BYTES) == VIRTIO_BLK_S_OK && id[0],
          "its name is %s", id);
    check(one(VIRTIO_BLK_T_IN, 0, data, 8 * SECTOR) == VIRTIO_BLK_S_OK &&
              text("before ", 0, 8, false),
          "sectors 0 to 7 have what they had");
    check(one(VIRTIO_BLK_T_IN, sectors - 1, data, SECTOR) == VIRTIO_BLK_S_OK &&
              text("before ", sectors - 1, 1, false) &&
              one(VIRTIO_BLK_T_IN, sectors, data, SECTOR) == VIRTIO_BLK_S_IOERR,
          "so has the last one; there is none behind");
    text("guest. ", FIRST, SECTORS, true);
    if (ro) {
        check(one(VIRTIO_BLK_T_OUT, FIRST, data, SECTOR) == VIRTIO_BLK_S_IOERR, "no write");
    } else {
        check(all(VIRTIO_BLK_T_OUT), "%u sectors written by %u requests at once", SECTORS, PARALLEL);
        check(one(VIRTIO_BLK_T_FLUSH, 0, NULL, 0) == VIRTIO_BLK_S_OK, "flushed");
        discard();
    }
    memset(data, 0, sizeof(data));
    check(all(VIRTIO_BLK_T_IN) && text(ro ? "before " : "guest. ", FIRST, SECTORS, false),
          "and read%s", first ? "" : " again");
    stop(&blk, msix);
}

/* A chain that never ends; and all is well again after a reset. */
static void hostile(bool msix)
{
    uint32_t before = config_irqs;

    start(&blk, 0, msix);
    blk.desc[0] = buffer(data, 1, VRING_DESC_F_NEXT, 0);
    offer(&blk, 0);
    MMIO(uint16_t, blk.notify) = 0;
    check(wait_irqs(&config_irqs, before + 1, 4000) &&
              status(&blk) & VIRTIO_CONFIG_S_NEEDS_RESET,
          "a loop in the queue ends the device");
    stop(&blk, msix);
}

/* With reads under way: once the device says that it is reset, none of them writes any more. */
static void reset_under_way(bool msix)
{
    bool same = true;

    start(&blk, 0, msix);
    for (unsigned i = 0; i < PARALLEL; i++)
        prepare(i, VIRTIO_BLK_T_IN, FIRST, data, sizeof(data));
    MMIO(uint16_t, blk.notify) = 0;
    bool done = wait_reset(&blk);
    memset(data, 0x77, sizeof(data));
    delay_ms(20);
    for (unsigned i = 0; i < sizeof(data); i += SECTOR)
        same &= data[i] == 0x77 && data[i + SECTOR - 1] == 0x77;
    check(done && same, "reset with requests under way");
    stop(&blk, msix);
}

/* The machine is reset with reads under way. */
static void reboot(void)
{
    if (!arg("reboot") || cmos_read(CMOS_REBOOTED) == REBOOTED)
        return;
    cmos_write(CMOS_REBOOTED, REBOOTED);
    start(&blk, 0, true);
    for (unsigned i = 0; i < PARALLEL; i++)
        prepare(i, VIRTIO_BLK_T_IN, FIRST, data, sizeof(data));
    MMIO(uint16_t, blk.notify) = 0;
    outb(0xcf9, 0x02);
    outb(0xcf9, 0x06);
    for (;;)
        __asm__ volatile("hlt");
}

int main(void)
{
    unsigned sectors = (unsigned)arg_number("sectors", 2048), disks = 0;
    bool ro = arg("ro");
    struct device none;

    pic_init(0);
    lapic_enable();
    on_trap(INTX_VECTOR, on_intx);
    on_trap(MSI_VECTOR, on_message);
    on_trap(CONFIG_VECTOR, on_message);
    while (find(&none, BLK, disks))
        disks++;
    check(disks == arg_number("disks", 1) && !find(&none, RNG, 1), "%u disks, one random source",
          disks);
    bool found = find(&blk, BLK, 0) && find(&rng, RNG, 0);
    if (!check(found, "disk at %x, random source at %x", blk.bdf, rng.bdf))
        finish("virtio");
    map(&blk);
    map(&rng);
    for (unsigned msix = 2; msix-- > 0;) {
        print("by %s\n", msix ? "MSI-X" : "INTx");
        random_bytes(msix);
        disk(msix, sectors, ro);
        hostile(msix);
        reset_under_way(msix);
    }
    disk(true, sectors, ro);
    check(!causeless || early, "%u interrupts without a cause%s", causeless,
          early ? ", in a KVM that makes them" : "");
    reboot();
    finish("virtio");
}
