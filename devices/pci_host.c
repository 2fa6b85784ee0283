/*
 * pci_host.c: the two ways a guest reaches configuration space, and the host bridge.
 *
 * PCI Local Bus 3.0, 3.2.2.3.2 "Software Generation of Configuration Transactions": the address
 * latch at port CF8, written and read as 32 bits only, and the data port CFC. PCI Express Base
 * 3.0, 7.2.2 "PCI Express Enhanced Configuration Access Mechanism (ECAM)": 4 KiB of MMIO for
 * each function, bus number in address bits 27:20. Intel ICH10 datasheet, 13.7.5 "RST_CNT -
 * Reset Control Register": the byte at CF9.
 *
 * Accesses of other sizes at CF8 do not reach the latch. Left out: AMD's extended CF8 (register
 * bits 11:8 in bits 27:24), which guests with ECAM do not need; CF8 configuration mechanism #2.
 *
 * vCPU threads call in. Latch and reset control are atomic: there is no lock here.
 */
#include "devices/pci.h"

#include "vmm/bus.h"
#include "vmm/layout.h"
#include "vmm/util.h"

#define CONFIG_ADDRESS 0 /* offsets from CF8 */
#define RESET_CONTROL  1
#define CONFIG_DATA    4

#define CONFIG_ENABLE 0x80000000U /* bus 23:16, device 15:11, function 10:8, register 7:2 */

/* 0 to 1 of RST_CPU resets, of the kind that SYS_RST and FULL_RST choose; the whole machine is
 * reset here in any case. */
#define RST_CNT_SYS_RST  0x02
#define RST_CNT_RST_CPU  0x04
#define RST_CNT_FULL_RST 0x08

/* The host bridge of an Intel Xeon E5 v2 ("DMI2", 8086:0e00 revision 4), as it is at 00:00.0 of
 * many real machines. Linux has neither a fixup nor a driver for this function, it is not one
 * of those it takes peer-to-peer DMA for granted with, and it does not tell that the machine is
 * virtual. It has no registers here beyond the header. */
#define HOST_BRIDGE_VENDOR    0x8086
#define HOST_BRIDGE_DEVICE    0x0e00
#define HOST_BRIDGE_CLASS_REV 0x06000004 /* bridge, host */

static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = opaque;
    if (offset == CONFIG_ADDRESS && size == 4)
        return bus->config_address;
    if (offset == RESET_CONTROL && size == 1)
        return bus->reset_control;
    uint32_t address = bus->config_address;
    if (offset < CONFIG_DATA || !(address & CONFIG_ENABLE))
        return all_ones(size);
    return pci_bus_config_read(bus, address >> 8 & 0xffff,
                               (address & 0xfc) + (unsigned)(offset - CONFIG_DATA), size);
}

/* The reset puts this register back to 0, too: RST_CPU never stays set, each 1 is an edge. */
static void reset_control_write(struct pci_bus *bus, uint8_t value)
{
    bool reset = value & RST_CNT_RST_CPU;
    bus->reset_control = reset ? 0 : value & (RST_CNT_SYS_RST | RST_CNT_FULL_RST);
    if (reset && bus->power.ops)
        bus->power.ops->reset(bus->power.opaque);
}

static void ports_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *bus = opaque;
    if (offset == CONFIG_ADDRESS && size == 4)
        bus->config_address = (uint32_t)value;
    else if (offset == RESET_CONTROL && size == 1)
        reset_control_write(bus, (uint8_t)value);
    if (offset < CONFIG_DATA)
        return;
    uint32_t address = bus->config_address;
    if (address & CONFIG_ENABLE)
        pci_bus_config_write(bus, address >> 8 & 0xffff,
                             (address & 0xfc) + (unsigned)(offset - CONFIG_DATA), size, value);
}

static const struct bus_ops ports_ops = {.read = ports_read, .write = ports_write};

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
    return pci_bus_config_read(opaque, (unsigned)(offset >> 12), offset & (PCI_CONFIG_SIZE - 1),
                               size);
}

static void ecam_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    pci_bus_config_write(opaque, (unsigned)(offset >> 12), offset & (PCI_CONFIG_SIZE - 1), size,
                         value);
}

static const struct bus_ops ecam_ops = {.read = ecam_read, .write = ecam_write};

static const struct pci_dev_ops host_bridge_ops = {
    .config_read = pci_config_read,
    .config_write = pci_config_write,
};

int pci_bus_init(struct pci_bus *bus, struct bus *pio, struct bus *mmio)
{
    const struct bus_range ports = {LAYOUT_PORT_PCI, 8, &ports_ops, bus, "pci-config"};
    const struct bus_range ecam = {LAYOUT_ECAM, LAYOUT_ECAM_SIZE, &ecam_ops, bus, "pci-ecam"};
    *bus = (struct pci_bus){.lock = PTHREAD_MUTEX_INITIALIZER, .pio = pio, .mmio = mmio};
    int err = bus_add(pio, &ports);
    if (err)
        return err;
    err = bus_add(mmio, &ecam);
    if (err) {
        bus_remove(pio, LAYOUT_PORT_PCI);
        return err;
    }
    pci_dev_init(&bus->host_bridge, &host_bridge_ops, "host bridge");
    pci_bus_set_host_bridge(bus, 0);
    return pci_bus_add(bus, &bus->host_bridge, PCI_DEVFN(0, 0));
}

void pci_bus_set_host_bridge(struct pci_bus *bus, uint16_t device)
{
    pci_dev_set_id(&bus->host_bridge, HOST_BRIDGE_VENDOR, device ? device : HOST_BRIDGE_DEVICE,
                   HOST_BRIDGE_CLASS_REV);
}

void pci_bus_fini(struct pci_bus *bus)
{
    pci_bus_remove(bus, &bus->host_bridge);
    bus_remove(bus->mmio, LAYOUT_ECAM);
    bus_remove(bus->pio, LAYOUT_PORT_PCI);
}
