/*
 * vga.c: a display card passed with its legacy VGA ranges (vga): text memory, and the ports by
 * their oldest registers (IBM VGA Technical Reference, 2: Sequencer, Miscellaneous Output).
 */
#include "lib.h"

enum { TEXT = 0xb8000, SEQUENCER = 0x3c4, MISC_READ = 0x3cc, MISC_WRITE = 0x3c2 };
enum { MAP_MASK = 2, MEMORY_MODE = 4 }; /* sequencer registers */

static uint32_t find_card(void)
{
    for (unsigned devfn = 0; devfn < 256; devfn++)
        if (pci_read32(devfn, 0) != 0xffffffff && pci_read32(devfn, PCI_CLASS) >> 16 == 0x0300)
            return devfn;
    return 0;
}

static void sequencer(uint8_t reg, uint8_t value)
{
    outb(SEQUENCER, reg);
    outb(SEQUENCER + 1, value);
}

/* No BIOS has set a mode: chain 4 makes the four planes one plain memory. */
static void text(uint32_t card)
{
    static const char line[] = "minivmm was here";
    bool same = true;

    sequencer(MEMORY_MODE, 0x0e);
    sequencer(MAP_MASK, 0x0f);
    for (unsigned i = 0; line[i]; i++)
        MMIO(uint16_t, TEXT + 2 * i) = (uint16_t)(0x0700 | line[i]);
    for (unsigned i = 0; line[i]; i++)
        same &= MMIO(uint16_t, TEXT + 2 * i) == (0x0700 | line[i]);
    check(same, "text memory keeps what is written");
    pci_write16(card, PCI_COMMAND, COMMAND_IO);
    check(MMIO(uint16_t, TEXT) == 0xffff, "and is the card's: gone with its memory decoding");
    pci_write16(card, PCI_COMMAND, COMMAND_IO | COMMAND_MEM);
    check(MMIO(uint16_t, TEXT) == (0x0700 | line[0]), "and back with it");
}

static void ports(uint32_t card)
{
    uint8_t misc = inb(MISC_READ);

    for (unsigned planes = 0; planes < 16; planes += 5) {
        sequencer(MAP_MASK, (uint8_t)planes);
        check((inb(SEQUENCER + 1) & 0xf) == planes, "sequencer's map mask %x", planes);
    }
    outb(MISC_WRITE, misc ^ 0x04);
    check(inb(MISC_READ) == (misc ^ 0x04), "what one port takes another shows");
    outb(MISC_WRITE, misc);
    pci_write16(card, PCI_COMMAND, COMMAND_MEM);
    check(inb(MISC_READ) == 0xff, "the ports are the card's, too");
    pci_write16(card, PCI_COMMAND, COMMAND_IO | COMMAND_MEM);
}

int main(void)
{
    uint32_t card = find_card();

    if (check(card, "a VGA card")) {
        pci_write16(card, PCI_COMMAND, COMMAND_IO | COMMAND_MEM);
        ports(card);
        text(card);
    }
    finish("vga");
}
