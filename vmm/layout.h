/*
 * layout.h: the guest's physical address map and its fixed interrupts, in one place.
 *
 *   0x0000_0000  RAM. One slot from 0: the legacy hole 0xA0000-0xFFFFF is RAM that the memory
 *                map given to the guest leaves out; the ACPI tables lie in it at 0xE0000. With
 *                a display card's VGA ranges (vga), 0xA0000-0xBFFFF is not RAM but the card.
 *   0x0010_0000  kernel; the initial RAM disk is near the top of low RAM
 *   0xC000_0000  end of low RAM; 32-bit MMIO window for BARs, up to 0xDFFF_FFFF
 *   0xE000_0000  ECAM (PCIe enhanced configuration), 256 buses of 1 MiB
 *   0xF000_0000  platform-device window, up to 0xFEBF_FFFF
 *   0xFEC0_0000  IOAPIC
 *   0xFEE0_0000  local APIC; never mapped for DMA (a write there is an interrupt message)
 *   0xFFFB_C000  KVM's identity-map page, and its TSS in the three pages that follow
 *   0x1_0000_0000  RAM above 4 GiB, then the 64-bit MMIO window (machine.c sizes it); either
 *                  starts above AMD's hole at 0xFD_0000_0000 when it would reach it
 */
#pragma once

#include <stdint.h>

#define LAYOUT_PAGE_SIZE 0x1000ULL

/* Low memory. What a loader leaves for the kernel, off what kernels made for other loaders take
 * (GRUB as a kernel begins at 0x9000). */
#define LAYOUT_BDA        0x00000400ULL /* BIOS data area */
#define LAYOUT_BOOT_GDT   0x00006000ULL
#define LAYOUT_BOOT_INFO  0x00007000ULL /* zero page, PVH start info, Multiboot: one page */
#define LAYOUT_FLAT       0x00010000ULL /* flat binaries: 1000:0000 */
#define LAYOUT_CMDLINE    0x00080000ULL /* up to 64 KiB with its NUL; Multiboot 2 information */
#define LAYOUT_BOOT_STACK 0x00090ff0ULL /* one page */
#define LAYOUT_BOOT_PGT   0x00091000ULL /* identity page tables, 6 pages */
#define LAYOUT_EBDA       0x0009fc00ULL /* end of conventional memory */
#define LAYOUT_HOLE_START 0x000a0000ULL
#define LAYOUT_VGA        LAYOUT_HOLE_START /* legacy memory of a card passed with vga */
#define LAYOUT_VGA_SIZE   0x00020000ULL
#define LAYOUT_ACPI       0x000e0000ULL /* RSDP first, then the tables */
#define LAYOUT_ACPI_SIZE  0x00020000ULL
#define LAYOUT_HIGH_START 0x00100000ULL

#define LAYOUT_LOW_RAM_END   0xc0000000ULL
#define LAYOUT_MMIO32        0xc0000000ULL
#define LAYOUT_MMIO32_SIZE   0x20000000ULL
#define LAYOUT_ECAM          0xe0000000ULL
#define LAYOUT_ECAM_SIZE     0x10000000ULL
#define LAYOUT_PLATFORM      0xf0000000ULL
#define LAYOUT_PLATFORM_SIZE 0x0ec00000ULL
#define LAYOUT_IOAPIC        0xfec00000ULL
#define LAYOUT_LAPIC         0xfee00000ULL
#define LAYOUT_IDENTITY      0xfffbc000ULL
#define LAYOUT_TSS           0xfffbd000ULL
#define LAYOUT_HIGH_RAM      0x100000000ULL

/* AMD's HyperTransport range: an AMD IOMMU faults on it, and the processor's memory map leaves
 * it out (AMD I/O Virtualization Technology Specification 48882, "Special Address Controls").
 * On every vendor, neither RAM nor the 64-bit MMIO window has a part of it. */
#define LAYOUT_HT     0xfd00000000ULL
#define LAYOUT_HT_END 0x10000000000ULL

/* I/O ports. 0xCF8-0xCFF is the PCI configuration mechanism, 0xCF9 the reset control register.
 */
#define LAYOUT_PORT_I8042     0x60
#define LAYOUT_PORT_CMOS      0x70
#define LAYOUT_PORT_COM1      0x3f8
#define LAYOUT_PORT_ACPI      0x600 /* PM1 event, PM1 control, PM timer: devices/acpi_pm.h */
#define LAYOUT_PORT_PCI       0xcf8
#define LAYOUT_PORT_BARS      0x1000 /* window for I/O BARs: above all of a PC's own ports */
#define LAYOUT_PORT_BARS_SIZE 0xf000

/* Global system interrupts: IOAPIC inputs 0-23. PCI INTx uses 16-23, see pci_intx_gsi(). */
#define LAYOUT_GSI_PIT       0
#define LAYOUT_GSI_COM1      4
#define LAYOUT_GSI_RTC       8
#define LAYOUT_GSI_SCI       9
#define LAYOUT_GSI_PCI       16
#define LAYOUT_GSI_PCI_COUNT 8
#define LAYOUT_GSI_FREE      0x0000ece8U /* a bit for each: 3, 5-7, 10, 11 and 13-15 */
#define LAYOUT_GSI_COUNT     24 /* the IOAPIC's inputs; message-signalled routes start here */
