/*
 * vfio_pci_rom_test.c: the expansion ROM: the device's own, a file's, none.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/fake_clock.h"
#include "tests/unit/vfio_pci_world.h"

static struct world w;
static char path[64];

static void setup(void)
{
    world_init(&w);
    strcpy(path, "/tmp/rom-XXXXXX");
}

static void teardown(void)
{
    world_fini(&w);
    unlink(path);
}

TestSuite(vfio_pci_rom, .init = setup, .fini = teardown);

/* What the device's ROM holds: SIZE bytes of a pattern, beginning with SIGNATURE. */
static void fill_rom(uint16_t signature, size_t size)
{
    uint8_t *image = malloc(size);

    for (size_t i = 0; i < size; i++)
        image[i] = (uint8_t)(i * 7 + i / 256);
    put_le16(image, signature);
    cr_assert_eq(pwrite(w.vfio.memory[PCI_BAR_ROM], image, size, 0), (ssize_t)size);
    free(image);
}

static void give_file(const char *bytes, size_t nr, off_t size)
{
    int fd = mkstemp(path);

    cr_assert_eq(write(fd, bytes, nr), (ssize_t)nr);
    cr_assert_eq(ftruncate(fd, size), 0);
    close(fd);
    w.config.rom = path;
}

static unsigned device_reads(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < w.vfio.nr; i++)
        n += w.vfio.call[i].op == FAKE_REGION_READ && w.vfio.call[i].index == PCI_BAR_ROM;
    return n;
}

static uint32_t rom_size(void)
{
    cfg_write(&w, PCI_ROM_ADDRESS, 4, 0xfffff800);
    return -cfg_read(&w, PCI_ROM_ADDRESS, 4);
}

Test(vfio_pci_rom, is_read_once)
{
    fill_rom(0xaa55, 64 * KIB);
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(device_reads(), 0, "nobody has looked");
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xaa55);
    unsigned n = device_reads();
    cr_expect_eq(n, 16, "a page at a time");
    for (unsigned i = 2; i < 64 * KIB; i += 997)
        cr_expect_eq(mmio_read(&w, WORLD_ROM + i, 1), (uint8_t)(i * 7 + i / 256));
    cr_expect_eq(mmio_read(&w, WORLD_ROM + 64 * KIB - 8, 8) >> 56,
                 (uint8_t)(0xffff * 7 + 0xff));
    cr_expect_eq(device_reads(), n);
    mmio_write(&w, WORLD_ROM, 4, 0);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xaa55);
    cr_expect_eq(fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, PCI_BAR_ROM, 0), NULL);
    /* The next boot has it, whatever the device says now. */
    fill_rom(0, 16);
    cr_assert_eq(vfio_pci_reset(w.pci), 0);
    world_start_guest(&w);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xaa55);
    cr_expect_eq(mmio_read(&w, WORLD_ROM + 3, 1), 21);
}

static int (*real_read)(struct vfio_device *dev, const struct vfio_region *region,
                        uint64_t offset, void *data, size_t len);

static int at_most_8(struct vfio_device *dev, const struct vfio_region *region, uint64_t offset,
                     void *data, size_t len)
{
    return len > 8 ? -EINVAL : real_read(dev, region, offset, data, len);
}

Test(vfio_pci_rom, of_a_provider_that_reads_8_bytes_at_a_time)
{
    static struct vfio_device_ops ops; /* teardown needs it, too */

    fill_rom(0xaa55, 64 * KIB);
    ops = *w.vfio.dev.ops;
    real_read = ops.region_read;
    ops.region_read = at_most_8;
    w.vfio.dev.ops = &ops;
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xaa55);
    cr_expect_eq(mmio_read(&w, WORLD_ROM + 0x1234, 1), (uint8_t)(0x1234 * 7 + 0x12));
}

Test(vfio_pci_rom, without_signature_there_is_none)
{
    fill_rom(0xffff, 64 * KIB);
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 4), UINT32_MAX);
    cr_expect_eq(mmio_read(&w, WORLD_ROM + 0x100, 4), UINT32_MAX);
    cr_expect_eq(device_reads(), 16, "and it is not read again");
}

Test(vfio_pci_rom, of_a_sleeping_device_is_read_later)
{
    fill_rom(0xaa55, 64 * KIB);
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cfg_write(&w, 0x40 + PCI_PM_CTRL, 2, 3);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xffff);
    cfg_write(&w, 0x40 + PCI_PM_CTRL, 2, 0);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xaa55);
    cfg_write(&w, 0x40 + PCI_PM_CTRL, 2, 3);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xaa55, "the copy does not sleep");
}

Test(vfio_pci_rom, is_gone_with_the_device)
{
    fill_rom(0xaa55, 64 * KIB);
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xaa55);
    w.vfio.dev.lost = true;
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xffff);
}

/* What the guest's first look makes the program say. */
static unsigned complaints(void)
{
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    char line[256];
    unsigned n = 0;

    log_set_level(LOG_NOTE);
    dup2(fileno(file), STDERR_FILENO);
    for (unsigned i = 0; i < 3; i++)
        mmio_read(&w, WORLD_ROM, 4);
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    while (fgets(line, sizeof(line), file))
        n += strstr(line, "rom=FILE") != NULL;
    fclose(file);
    return n;
}

Test(vfio_pci_rom, without_signature_is_told_once)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(complaints(), 1);
}

Test(vfio_pci_rom, that_cannot_be_read_is_told_once)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    w.vfio.config[PCI_COMMAND] = 0; /* behind our back */
    cr_expect_eq(complaints(), 1);
}

static int lose_it(struct vfio_device *dev, const struct vfio_region *region, uint64_t offset,
                   void *data, size_t len)
{
    (void)region, (void)offset, (void)data, (void)len;
    dev->lost = true;
    return -EIO;
}

Test(vfio_pci_rom, of_a_device_that_is_lost_meanwhile)
{
    static struct vfio_device_ops ops; /* teardown needs it, too */

    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    ops = *w.vfio.dev.ops;
    ops.region_read = lose_it;
    w.vfio.dev.ops = &ops;
    cr_expect_eq(complaints(), 0, "the provider tells");
}

static int64_t now;
static unsigned answers;

static int answer_late(struct vfio_device *dev, const struct vfio_region *region,
                       uint64_t offset, void *data, size_t len)
{
    now += NS_PER_S;
    answers++;
    return at_most_8(dev, region, offset, data, len);
}

Test(vfio_pci_rom, of_a_server_that_takes_its_time_for_every_8_bytes)
{
    static struct vfio_device_ops ops; /* teardown needs it, too */

    fill_rom(0xaa55, 64 * KIB);
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    ops = *w.vfio.dev.ops;
    real_read = ops.region_read;
    ops.region_read = answer_late;
    w.vfio.dev.ops = &ops;
    fake_clock_ns = &now;
    cr_expect_eq(complaints(), 1);
    cr_expect_lt(answers, 20, "the guest's vCPU does not wait for ever, nor come again");
    fake_clock_ns = NULL;
}

Test(vfio_pci_rom, off)
{
    w.config.rom_off = true;
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(rom_size(), 0);
    cr_expect_eq(cfg_read(&w, PCI_ROM_ADDRESS, 4), 0);
}

Test(vfio_pci_rom, of_a_file)
{
    fill_rom(0xaa55, 64 * KIB);
    give_file("\x55\xaa\x12", 3, 5000);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(rom_size(), 8 * KIB, "a power of two");
    unlink(path); /* it was read before */
    world_start_guest(&w);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 4), 0x0012aa55);
    cr_expect_eq(mmio_read(&w, WORLD_ROM + 4996, 8), 0xffffffff00000000, "its end");
    cr_expect_eq(mmio_read(&w, WORLD_ROM + 8 * KIB - 4, 4), UINT32_MAX);
    cr_expect_eq(device_reads(), 0);
    cr_assert_eq(vfio_pci_reset(w.pci), 0);
    world_start_guest(&w);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 4), 0x0012aa55);
}

Test(vfio_pci_rom, of_a_file_for_a_device_that_has_none)
{
    fake_vfio_bar(&w.vfio, PCI_BAR_ROM, 0, 0);
    give_file("\x55\xaa", 2, 2);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(rom_size(), 2 * KIB, "the smallest there is");
    world_start_guest(&w);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 4), 0xffffaa55);
}

Test(vfio_pci_rom, of_a_file_of_16m)
{
    give_file("\x55\xaa", 2, 16 * MIB);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(rom_size(), 16 * MIB);
}

Test(vfio_pci_rom, of_a_file_that_is_too_large)
{
    give_file("\x55\xaa", 2, 16 * MIB + 1);
    cr_expect_eq(world_create(&w), -EINVAL);
}

Test(vfio_pci_rom, of_an_empty_file)
{
    give_file("", 0, 0);
    cr_expect_eq(world_create(&w), -EINVAL);
}

Test(vfio_pci_rom, of_a_file_with_a_header_in_front)
{
    give_file("NVGI\x55\xaa", 6, 4096);
    cr_expect_eq(world_create(&w), -EINVAL);
}

Test(vfio_pci_rom, of_a_file_that_is_not_there)
{
    w.config.rom = "/nonexistent/rom";
    cr_expect_eq(world_create(&w), -ENOENT);
}

Test(vfio_pci_rom, of_a_pipe)
{
    mkfifo(path, 0600); /* nobody writes */
    w.config.rom = path;
    cr_expect_eq(world_create(&w), -EINVAL);
}
