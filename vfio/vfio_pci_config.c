/*
 * vfio_pci_config.c: the configuration space of a passed-through function, as the guest sees
 * it.
 *
 * PCI Local Bus 3.0, 6.1 "Configuration Space Organization" and 6.7 "Capabilities List"; PCI
 * Express Base 6.0, 7.5 "PCI and PCIe Capabilities Required by the Base Spec in all cases" and
 * 7.6 "PCI Express Extended Capabilities". Bits marked in `emulated` are read from dev.config
 * and never reach the device; all others are read from and written to the device, where the
 * provider (the kernel's vfio-pci) once more filters what is safe. The two tables below say
 * which is which. A capability is hidden by unlinking it: its registers stay where they are, as
 * drivers that know fixed offsets expect.
 *
 * Left out: root ports in front of the device.
 * The device's capability lists are not trusted: a position is visited once, whatever they say.
 * The bus's lock is held in everything here but vfio_pci_config_read_all() and _init().
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "vfio/vfio_pci_priv.h"
#include "vmm/util.h"

/* Registers of the type-0 header that are not the device's. */
static const struct header_rule {
    uint16_t offset, size;
} emulated_header[] = {
    {PCI_HEADER_TYPE, 1},        /* "multi-function" speaks of the guest's slot */
    {PCI_BASE_ADDRESS_0, 6 * 4}, /* guest addresses; the real ones belong to the host */
    {PCI_ROM_ADDRESS, 4},        /* likewise */
    {PCI_CAPABILITY_LIST, 1},    /* the list is relinked */
    {PCI_INTERRUPT_LINE, 2},     /* line: a note of the guest to itself; pin: 0 without INTx */
};
/*
 * COMMAND is not in the table: it passes, and dev.config keeps a copy to decide on BARs and
 * INTx. Reading it from the device shows what is really enabled, and for a virtual function,
 * whose memory enable bit does not exist in hardware, the kernel supplies the bit.
 */

static bool setup_pm(struct vfio_pci *pci, unsigned pos);
static bool setup_exp(struct vfio_pci *pci, unsigned pos);
static bool setup_af(struct vfio_pci *pci, unsigned pos);

/* Capabilities that the guest sees; what is not listed is hidden. SETUP may still refuse. */
struct cap_rule {
    uint16_t id;
    bool (*setup)(struct vfio_pci *pci, unsigned pos);
};

static const struct cap_rule shown_caps[] = {
    {PCI_CAP_ID_PM, setup_pm},           /* the kernel carries out changes of power state */
    {PCI_CAP_ID_VPD, NULL},              /* the kernel serialises it with its own use */
    {PCI_CAP_ID_MSI, vfio_pci_msi_init}, /* addresses are the guest's: emulated */
    {PCI_CAP_ID_PCIX, NULL},             /* read count and split transactions: a device's own */
    {PCI_CAP_ID_VNDR, NULL},             /* its driver knows what it is */
    {PCI_CAP_ID_EXP, setup_exp},         /* without the link, which ends at the host's port */
    {PCI_CAP_ID_MSIX, vfio_pci_msix_init}, /* like MSI */
    {PCI_CAP_ID_SATA, NULL},               /* where the index/data pair is: constant */
    {PCI_CAP_ID_AF, setup_af},             /* function level reset by the kernel */
    /*
     * Hidden: enhanced allocation (would contradict the emulated BARs); bridge, slot, hot-plug,
     * debug-port, AGP and HyperTransport capabilities (they are about the host's bus).
     */
};

static const struct cap_rule shown_ext_caps[] = {
    {PCI_EXT_CAP_ID_DSN, NULL},   /* serial number: network drivers derive names from it */
    {PCI_EXT_CAP_ID_PWR, NULL},   /* power budget: read-only data */
    {PCI_EXT_CAP_ID_VNDR, NULL},  /* its driver knows what it is */
    {PCI_EXT_CAP_ID_DVSEC, NULL}, /* likewise */
    /*
     * Hidden:
     *   AER, DPC               errors go to the host's root port; the host has to find them
     *   VC, MFVC, ACS, MCAST   traffic classes and isolation of the host's fabric
     *   ARI                    function numbers are those of the guest's slot
     *   ATS, PRI, PASID, TPH   need an IOMMU or a cache topology that the guest does not see
     *   SRIOV                  virtual functions are made by the host; Linux would reserve
     *                          guest addresses for their BARs
     *   REBAR, VF REBAR        the host has decided on the sizes
     *   LTR, L1SS, PTM, DLF    negotiated with the link partner, which is the host's
     *   and link-speed, encryption and mailbox capabilities, unknown ones
     */
};

/* As many as there is room for: the lists are not trusted to end. */
#define CAPS_MAX ((PCI_CFG_SPACE_SIZE - PCI_STD_HEADER_SIZEOF) / 4)

/* ---- access to the device ---- */

uint32_t vfio_pci_hw_read(struct vfio_pci *pci, unsigned offset, unsigned size)
{
    uint8_t bytes[4];
    if (!range_within(offset, size, pci->config.size) ||
        pci->vdev->ops->region_read(pci->vdev, &pci->config, offset, bytes, size))
        return (uint32_t)all_ones(size);
    return (uint32_t)get_le(bytes, size);
}

void vfio_pci_hw_write(struct vfio_pci *pci, unsigned offset, unsigned size, uint32_t value)
{
    uint8_t bytes[4];
    int err = -ERANGE;
    put_le(bytes, size, value);
    if (range_within(offset, size, pci->config.size))
        err = pci->vdev->ops->region_write(pci->vdev, &pci->config, offset, bytes, size);
    if (err && err != -ERANGE && log_limit(&pci->accesses))
        log_debug(pci->dev.name, "cannot write configuration register 0x%x: %s", offset,
                  strerror(-err));
}

/* Where the device has a capability; 0: nowhere. */
static unsigned find_cap(struct vfio_pci *pci, uint8_t id)
{
    unsigned pos = 0;
    if (vfio_pci_hw_read(pci, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST)
        pos = vfio_pci_hw_read(pci, PCI_CAPABILITY_LIST, 1) & ~3U;
    for (unsigned i = 0; i < CAPS_MAX && pos >= PCI_STD_HEADER_SIZEOF; i++) {
        uint32_t header = vfio_pci_hw_read(pci, pos, 2);
        if ((header & 0xff) == id)
            return pos;
        pos = header >> 8 & ~3U;
    }
    return 0;
}

/*
 * The kernel does all this when it opens a device; a vfio-user server's may be as another
 * client left it, and so is one that is not reset. PCI Power Management 1.2, 5.6.1 "State
 * Transition Delays": 10 ms before the next access after D3hot.
 */
void vfio_pci_calm(struct vfio_pci *pci)
{
    const struct timespec delay = {.tv_nsec = 10 * 1000 * 1000};
    unsigned pm = find_cap(pci, PCI_CAP_ID_PM);
    uint32_t state = pm ? vfio_pci_hw_read(pci, pm + PCI_PM_CTRL, 2) : 0;
    vfio_pci_hw_write(pci, PCI_COMMAND, 2, 0);
    if (!(state & PCI_PM_CTRL_STATE_MASK) || state == 0xffff)
        return;
    vfio_pci_hw_write(pci, pm + PCI_PM_CTRL, 2, 0); /* D0, no wake-up events */
    nanosleep(&delay, NULL);
}

int vfio_pci_config_read_all(struct vfio_pci *pci)
{
    if (pci->config.size >= PCI_CONFIG_SIZE)
        pci->config.size = PCI_CONFIG_SIZE;
    else if (pci->config.size > 256)
        pci->config.size = 256;
    for (unsigned i = 0; i < PCI_CFG_SPACE_SIZE; i += 4)
        put_le32(pci->dev.config + i, vfio_pci_hw_read(pci, i, 4));
    uint8_t type = pci->dev.config[PCI_HEADER_TYPE] & 0x7f;
    if (type != PCI_HEADER_TYPE_NORMAL) {
        log_error(pci->dev.name,
                  "cannot pass through the device: its header type is %u, not that of an "
                  "endpoint; bridges stay with the host",
                  type);
        return -EINVAL;
    }
    return 0;
}

/* ---- policy ---- */

void vfio_pci_emulate(struct vfio_pci *pci, unsigned pos, unsigned len)
{
    memset(pci->emulated + pos, 0xff, len);
    memset(pci->dev.wmask + pos, 0, len);
}

/* Only the first of several counts. */
static bool note(unsigned *at, unsigned pos, unsigned size)
{
    if (*at || pos + size > PCI_CFG_SPACE_SIZE)
        return false;
    *at = pos;
    return true;
}

static bool setup_pm(struct vfio_pci *pci, unsigned pos)
{
    return note(&pci->pm, pos, PCI_PM_SIZEOF);
}

static bool setup_af(struct vfio_pci *pci, unsigned pos)
{
    return note(&pci->af, pos, PCI_CAP_AF_SIZEOF);
}

/*
 * The guest finds the function on its root bus, with no port above it: that is a Root Complex
 * Integrated Endpoint (PCIe 7.5.3.2), and such a one has no link, so its link registers read as
 * zero (7.5.3.6 to 7.5.3.8). As an Endpoint it would lack the port that ASPM, retraining and
 * bandwidth code look for; Linux copes, firmware and other systems do not.
 */
static bool setup_exp(struct vfio_pci *pci, unsigned pos)
{
    uint8_t *cap = pci->dev.config + pos;
    if (!note(&pci->exp, pos, PCI_CAP_EXP_ENDPOINT_SIZEOF_V1))
        return false;
    uint16_t flags = get_le16(cap + PCI_EXP_FLAGS);
    flags &= (uint16_t) ~(PCI_EXP_FLAGS_TYPE | PCI_EXP_FLAGS_SLOT);
    put_le16(cap + PCI_EXP_FLAGS, (uint16_t)(flags | PCI_EXP_TYPE_RC_END << 4));
    vfio_pci_emulate(pci, pos + PCI_EXP_FLAGS, 2);
    memset(cap + PCI_EXP_LNKCAP, 0, 8);
    vfio_pci_emulate(pci, pos + PCI_EXP_LNKCAP, 8);
    if ((flags & PCI_EXP_FLAGS_VERS) >= 2 && pos + PCI_EXP_SLTCAP2 <= PCI_CFG_SPACE_SIZE) {
        memset(cap + PCI_EXP_LNKCAP2, 0, 8);
        vfio_pci_emulate(pci, pos + PCI_EXP_LNKCAP2, 8);
    }
    return true;
}

static bool show(struct vfio_pci *pci, const struct cap_rule *rules, size_t nr, uint16_t id,
                 unsigned pos)
{
    for (size_t i = 0; i < nr; i++)
        if (rules[i].id == id)
            return !rules[i].setup || rules[i].setup(pci, pos);
    return false;
}

/*
 * NVIDIA's GPUDirect P2P clique, for cards between which the user knows direct transfers to
 * work: a vendor-specific capability at the end of the list, by NVIDIA's specification at 0xc8,
 * or at 0xd4 where MSI-X has that place (Turing and later). See QEMU, hw/vfio/pci-quirks.c,
 * commit f6b30c1984f7. TAKEN: the capabilities there are, by position / 4.
 */
static int add_clique(struct vfio_pci *pci, uint8_t *link, uint64_t taken)
{
    static const uint8_t place[] = {0xc8, 0xd4};
    const uint8_t cap[] = {
        PCI_CAP_ID_VNDR, 0, 8, 'P', '2', 'P', (uint8_t)(pci->wiring.clique << 3), 0};
    if (pci->vendor != VFIO_PCI_NVIDIA || pci->class >> 8 != VFIO_PCI_BASE_DISPLAY) {
        log_error(
            pci->dev.name,
            "cannot give the device a GPUDirect clique: it is %04x:%04x of class %04x, no "
            "display device (03xx) of NVIDIA (10de); leave out clique=",
            pci->vendor, pci->device, pci->class);
        return -EINVAL;
    }
    for (size_t i = 0; i < ARRAY_SIZE(place); i++) {
        if (taken >> place[i] / 4 & 3 || get_le64(pci->emulated + place[i]))
            continue;
        memcpy(pci->dev.config + place[i], cap, sizeof(cap));
        vfio_pci_emulate(pci, place[i], sizeof(cap));
        *link = place[i];
        return 0;
    }
    log_error(pci->dev.name,
              "cannot give the device a GPUDirect clique: it has capabilities of "
              "its own at 0xc8 and 0xd4; leave out clique=");
    return -ENOSPC;
}

/* The low two bits of every pointer are reserved and have to be masked (PCI 3.0, 6.7). */
static int relink_caps(struct vfio_pci *pci)
{
    uint8_t *config = pci->dev.config;
    uint8_t *link = config + PCI_CAPABILITY_LIST;
    unsigned pos = (config[PCI_STATUS] & PCI_STATUS_CAP_LIST) ? *link & ~3U : 0;
    uint64_t seen = 0; /* by position / 4 */

    *link = 0;
    while (pos >= PCI_STD_HEADER_SIZEOF && !(seen & 1ULL << pos / 4)) {
        uint8_t id = config[pos + PCI_CAP_LIST_ID];
        unsigned next = config[pos + PCI_CAP_LIST_NEXT] & ~3U;

        seen |= 1ULL << pos / 4;
        if (show(pci, shown_caps, ARRAY_SIZE(shown_caps), id, pos)) {
            *link = (uint8_t)pos;
            link = config + pos + PCI_CAP_LIST_NEXT;
            *link = 0;
            vfio_pci_emulate(pci, pos, 2);
        }
        pos = next;
    }
    int err = pci->wiring.clique < 0 ? 0 : add_clique(pci, link, seen);
    pci->emulated[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_CAP_LIST;
    if (config[PCI_CAPABILITY_LIST])
        config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    return err;
}

/*
 * The first extended capability is at a fixed place: hidden, it stays as one with id and
 * version 0, which readers pass over.
 */
static void relink_ext_caps(struct vfio_pci *pci)
{
    bool seen[PCI_CONFIG_SIZE / 4] = {false};
    uint8_t *config = pci->dev.config;
    unsigned pos = PCI_CFG_SPACE_SIZE, link = 0;
    while (pos >= PCI_CFG_SPACE_SIZE && !seen[pos / 4]) {
        uint32_t header = vfio_pci_hw_read(pci, pos, 4);
        unsigned next = PCI_EXT_CAP_NEXT(header);

        if (!header || header == UINT32_MAX)
            break;
        seen[pos / 4] = true;
        bool shown = show(pci, shown_ext_caps, ARRAY_SIZE(shown_ext_caps),
                          (uint16_t)PCI_EXT_CAP_ID(header), pos);
        if (shown || pos == PCI_CFG_SPACE_SIZE) {
            put_le32(config + pos, shown ? header & 0xfffff : 0);
            vfio_pci_emulate(pci, pos, 4);
            if (link)
                put_le32(config + link, get_le32(config + link) | pos << 20);
            link = pos;
        }
        pos = next;
    }
}

int vfio_pci_config_init(struct vfio_pci *pci)
{
    uint8_t *config = pci->dev.config;
    for (size_t i = 0; i < ARRAY_SIZE(emulated_header); i++)
        memset(pci->emulated + emulated_header[i].offset, 0xff, emulated_header[i].size);
    pci->dev.wmask[PCI_INTERRUPT_LINE] = 0xff;
    config[PCI_HEADER_TYPE] &= 0x7f;
    config[PCI_INTERRUPT_LINE] = 0;
    put_le16(config + PCI_COMMAND, 0);
    if (pci->config.size == PCI_CONFIG_SIZE)
        relink_ext_caps(pci);
    return relink_caps(pci);
}

void vfio_pci_config_reset(struct vfio_pci *pci)
{
    memcpy(pci->dev.config, pci->initial, sizeof(pci->initial));
    pci->asleep = false;
    vfio_pci_quirks_reset(pci);
}

/* ---- guest accesses ---- */

uint32_t vfio_pci_config_read(struct pci_dev *dev, unsigned offset, unsigned size)
{
    struct vfio_pci *pci = to_vfio_pci(dev);
    uint32_t emulated = (uint32_t)get_le(pci->emulated + offset, size);
    if (vfio_pci_is_lost(pci))
        return (uint32_t)all_ones(size);
    vfio_pci_irq_config_read(pci, offset, size);
    uint32_t value = pci_config_read(dev, offset, size);
    if (emulated == all_ones(size))
        return value;
    return (vfio_pci_hw_read(pci, offset, size) & ~emulated) | (value & emulated);
}

/* The device's part of a write. Bits beside it that are emulated get what they have. */
static void pass_write(struct vfio_pci *pci, unsigned offset, unsigned size, uint32_t value)
{
    uint32_t emulated = (uint32_t)get_le(pci->emulated + offset, size);
    if (emulated == all_ones(size))
        return;
    if (emulated)
        value = (value & ~emulated) | (vfio_pci_hw_read(pci, offset, size) & emulated);
    vfio_pci_hw_write(pci, offset, size, value);
}

/* The byte that a write puts at REG, or -1 when it does not reach there. */
static int byte_written(unsigned reg, unsigned offset, unsigned size, uint32_t value)
{
    if (reg < offset || reg >= offset + size)
        return -1;
    return (int)(value >> 8 * (reg - offset) & 0xff);
}

/* Function level reset: PCIe 7.5.3.4, and the Advanced Features ECN. The kernel catches it. */
static bool resets_function(const struct vfio_pci *pci, unsigned offset, unsigned size,
                            uint32_t value)
{
    int devctl = byte_written(pci->exp + PCI_EXP_DEVCTL + 1, offset, size, value);
    int af = byte_written(pci->af + PCI_AF_CTRL, offset, size, value);
    return (pci->exp && devctl >= 0 && devctl & PCI_EXP_DEVCTL_BCR_FLR >> 8) ||
           (pci->af && af >= 0 && af & PCI_AF_CTRL_FLR);
}

/*
 * While a reset is going on, in D3hot, and with memory decoding off, the kernel takes the BARs'
 * mappings away: a vCPU that touches a slot then makes KVM_RUN fail. So the slots go before the
 * device hears of it, and come back afterwards; in between, accesses trap and read all ones.
 */
void vfio_pci_config_write(struct pci_dev *dev, unsigned offset, unsigned size, uint32_t value)
{
    struct vfio_pci *pci = to_vfio_pci(dev);
    int command = byte_written(PCI_COMMAND, offset, size, value);
    int pmcsr = byte_written(pci->pm + PCI_PM_CTRL, offset, size, value);
    bool sleep = pci->asleep;

    if (vfio_pci_is_lost(pci))
        return;
    if (pci->pm && pmcsr >= 0)
        sleep = (pmcsr & PCI_PM_CTRL_STATE_MASK) == 3; /* D3hot */
    bool reset = resets_function(pci, offset, size, value);
    bool interrupted = sleep != pci->asleep || reset;
    pci->asleep = sleep;
    if (interrupted)
        vfio_pci_drop_slots(pci);
    if (command >= 0 && !(command & PCI_COMMAND_MEMORY)) {
        pci_config_write(dev, offset, size, value); /* unmaps the BARs */
        pass_write(pci, offset, size, value);
    } else {
        pass_write(pci, offset, size, value);
        pci_config_write(dev, offset, size, value); /* may map them */
    }
    if (reset)
        vfio_pci_quirks_reset(pci);
    if (interrupted && !pci->asleep)
        vfio_pci_restore_slots(pci);
    vfio_pci_irq_config_written(pci, offset, size);
}
