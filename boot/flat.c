/*
 * flat.c: a file without a format, as a student's first kernel is: loaded as it is, entered at
 * its first byte.
 *
 * By default at 0x10000 in 16-bit real mode (1000:0000); --entry gives another address and
 * mode: `protected` is flat 32-bit without paging, `long` is 64-bit with the first 4 GiB
 * identity-mapped. (E)SI/RSI holds the address of the same boot parameters that Linux gets
 * ("zero page": command line, initial RAM disk, memory map), or 0 where a real-mode image lies
 * over them. What is left out: everything else a BIOS does (no interrupt vectors, no services).
 *
 * Pure function over hostile bytes; any thread.
 */
#include <errno.h>

#include "boot/loader.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define REAL_STACK 0xfff0 /* in the segment of the image: far from its start */

/* Where a mode can begin: real mode's segment is the address's, 64-bit mode's map ends. */
static int check_address(const struct boot_config *config, enum boot_force mode, uint64_t addr)
{
    uint64_t limit = mode == BOOT_REAL ? LAYOUT_HIGH_START : LAYOUT_HIGH_RAM;
    bool overlaps = mode != BOOT_REAL && boot_overlaps(addr, config->kernel_size);
    if (addr < limit && !overlaps)
        return 0;
    log_error(config->kernel_name, "cannot load flat binary at 0x%llx: %s; give an address %s",
              (unsigned long long)addr,
              overlaps ? "the boot parameters and tables are there"
                       : "the mode cannot begin there",
              mode == BOOT_REAL ? "below 0x100000" : "from 0x100000 up");
    return -EINVAL;
}

/* Real mode may run over the boot parameters; then nobody can find an initial RAM disk. */
static int put_parameters(const struct boot_config *config, const struct mem *mem, uint64_t end,
                          struct boot_entry *entry)
{
    struct boot_params params = {0};
    struct boot_range initrd = {0};
    int err =
        boot_put_initrd(config, mem, MAX(end, LAYOUT_HIGH_START), LAYOUT_HIGH_RAM, &initrd);
    if (!err)
        err = boot_put_cmdline(config, mem, UINT64_MAX);
    if (err)
        return err;
    boot_put_params(config, mem, &params, &initrd);
    entry->rsi = LAYOUT_BOOT_INFO;
    return 0;
}

int flat_load(const struct boot_config *config, const struct mem *mem, struct boot_entry *entry)
{
    enum boot_force mode = config->force == BOOT_AUTO ? BOOT_REAL : config->force;
    uint64_t addr = config->force == BOOT_AUTO ? LAYOUT_FLAT : config->flat_addr;
    uint8_t *hva;
    int err = check_address(config, mode, addr);
    if (!err)
        err = boot_claim(config, mem, addr, config->kernel_size, &hva);
    if (err)
        return err;

    *entry = (struct boot_entry){.mode = ENTRY_REAL, .rip = addr, .rsp = REAL_STACK};
    if (!boot_overlaps(addr, config->kernel_size)) {
        err = put_parameters(config, mem, addr + config->kernel_size, entry);
    } else if (config->initrd_name) {
        log_error(config->initrd_name,
                  "cannot load initial RAM disk: the flat binary at 0x%llx lies over the boot "
                  "parameters that would announce it; give --entry another address",
                  (unsigned long long)addr);
        err = -EINVAL;
    }
    if (err)
        return err;
    if (mode == BOOT_PROTECTED)
        boot_put_protected(mem, entry);
    if (mode == BOOT_LONG)
        boot_put_long(mem, entry);
    memcpy(hva, config->kernel, config->kernel_size);
    if (config->force == BOOT_AUTO)
        log_note(config->kernel_name,
                 "no known kernel format: loaded as a flat binary at 0x10000, entered in real "
                 "mode at 1000:0000; --entry changes that");
    return 0;
}
