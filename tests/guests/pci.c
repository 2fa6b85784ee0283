/*
 * pci.c: configuration space by both mechanisms (PCI Local Bus 3.0, 3.2.2.3.2 and chapter 6;
 * PCI Express Base 7.2.2): enumeration, the host bridge, what is not there, access sizes, BARs.
 */
#include "lib.h"

enum { VENDOR = 0x00, COMMAND = 0x04, CLASS = 0x08, HEADER = 0x0c, BAR0 = 0x10 };

static uint64_t ecam;

static uint64_t ecam_at(uint32_t bdf, unsigned reg)
{
    return ecam + (bdf << 12) + reg;
}

static void enumerate(void)
{
    unsigned found = 0;
    bool same = true;

    for (unsigned devfn = 0; devfn < 256; devfn++) {
        uint32_t id = pci_read32(devfn, VENDOR);
        same &= id == mmio_read32(ecam_at(devfn, VENDOR));
        if (id == 0xffffffff)
            continue;
        found++;
        print("00:%02x.%x %04x:%04x class %06x\n", devfn >> 3, devfn & 7, id & 0xffff, id >> 16,
              pci_read32(devfn, CLASS) >> 8);
    }
    check(found > 0, "%u functions on bus 0", found);
    check(same, "CF8/CFC and ECAM find the same");
}

static void host_bridge(void)
{
    uint32_t id = pci_read32(0, VENDOR);

    check(pci_read32(0, CLASS) >> 8 == 0x060000, "00:00.0 is a host bridge");
    check((pci_read8(0, HEADER + 2) & 0x7f) == 0, "of header type 0");
    pci_write32(0, VENDOR, ~id);
    check(pci_read32(0, VENDOR) == id, "its identification is read-only");
    check(pci_read16(0, VENDOR) == (id & 0xffff) && pci_read16(0, VENDOR + 2) == id >> 16 &&
              pci_read8(0, VENDOR + 1) == (id >> 8 & 0xff) &&
              pci_read8(0, VENDOR + 3) == id >> 24,
          "bytes and words through CFC to CFF");
    check(MMIO(uint16_t, ecam_at(0, 2)) == id >> 16 &&
              MMIO(uint8_t, ecam_at(0, 3)) == id >> 24 &&
              MMIO(uint64_t, ecam_at(0, 0)) == (id | (uint64_t)pci_read32(0, COMMAND) << 32),
          "bytes, words and quadwords through ECAM");
    bool none = true;
    for (unsigned reg = BAR0; reg < BAR0 + 24; reg += 4) {
        uint32_t was = pci_read32(0, reg);
        pci_write32(0, reg, 0xffffffff);
        none &= pci_read32(0, reg) == was;
        pci_write32(0, reg, was);
    }
    check(none, "it has no base addresses");
}

static void nothing_there(void)
{
    uint32_t bdf = PCI_BDF(0, 30, 7);
    bool buses = true;

    check(pci_read32(bdf, VENDOR) == 0xffffffff && pci_read16(bdf, VENDOR) == 0xffff &&
              pci_read8(bdf, VENDOR) == 0xff && mmio_read32(ecam_at(bdf, 0)) == 0xffffffff,
          "a missing function reads as all ones");
    pci_write32(bdf, BAR0, 0);
    mmio_write32(ecam_at(bdf, BAR0), 0);
    check(pci_read32(bdf, BAR0) == 0xffffffff, "and takes no writes");
    for (unsigned bus = 1; bus < 256; bus++)
        buses &= mmio_read32(ecam_at(PCI_BDF(bus, 0, 0), 0)) == 0xffffffff;
    check(buses, "so do all other buses");
}

static void address_latch(void)
{
    outl(0xcf8, 0x80000000);
    check(inl(0xcf8) == 0x80000000, "CF8 can be read back");
    uint32_t id = inl(0xcfc);
    outl(0xcf8, 0x00000000);
    check(inl(0xcfc) == 0xffffffff, "without the enable bit there is nothing at CFC");
    outl(0xcf8, 0x80000000);
    outb(0xcfb, 0); /* only a dword write reaches the latch */
    check(inl(0xcf8) == 0x80000000 && inl(0xcfc) == id, "a byte written to CFB is not for it");
}

int main(void)
{
    ecam = acpi_ecam();
    if (!check(ecam, "ECAM at %lx", ecam))
        finish("pci");
    enumerate();
    host_bridge();
    nothing_there();
    address_latch();
    finish("pci");
}
