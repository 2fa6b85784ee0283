/*
 * vfio_name_test.c: names that stand for several devices, and mediated devices made and
 * removed.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/fake_vfio_kernel.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/util.h"

static struct fake_vfio_kernel *k;
static struct vfio_path path[8];

static void set_id(const char *name, const char *vendor, const char *device)
{
    char file[128];
    snprintf(file, sizeof(file), "/sys/devices/pci0000:40/%s/vendor", name);
    fake_file(file, vendor);
    snprintf(file, sizeof(file), "/sys/devices/pci0000:40/%s/device", name);
    fake_file(file, device);
}

/* Two functions and a virtual one on 42:00, another card of the same ID on 43:00. */
static void set_up(void)
{
    k = fake_vfio_kernel_init();
    fake_sysfs_device("0000:42:00.1", FAKE_GROUP, NULL);
    fake_sysfs_device("0000:42:00.2", 16, NULL);
    fake_link("/sys/devices/pci0000:40/0000:42:00.2/physfn", "../0000:42:00.0");
    fake_sysfs_device("0000:43:00.0", 17, "vfio-pci");
    fake_sysfs_device("0001:42:00.0", 18, "vfio-pci");
    set_id("0000:42:00.0", "0x10de\n", "0x1b80\n");
    set_id("0000:42:00.1", "0x10de\n", "0x10f0\n");
    set_id("0000:42:00.2", "0x10de\n", "0x1b81\n");
    set_id("0000:43:00.0", "0x10de\n", "0x1b80\n");
}

TestSuite(vfio_name, .init = set_up, .fini = fake_vfio_kernel_fini);

static bool not_42(const char *sysfs, const void *opaque)
{
    cr_expect_eq(opaque, &k);
    return strcmp(vfio_sysfs_name(sysfs), "0000:42:00.0") != 0;
}

static bool never(const char *sysfs, const void *opaque)
{
    (void)sysfs;
    (void)opaque;
    return false;
}

static int find(const char *name)
{
    memset(path, 0, sizeof(path));
    return vfio_name_find(name, NULL, NULL, path, ARRAY_SIZE(path));
}

#define EXPECT_PATH(i, name) cr_expect_str_eq(path[i].text, "/sys/bus/pci/devices/" name)

Test(vfio_name, one_device)
{
    cr_expect_eq(find("42:00.0"), 1);
    EXPECT_PATH(0, "0000:42:00.0");
    cr_expect_eq(find("/sys/bus/pci/devices/0000:43:00.0"), 1);
    cr_expect_str_eq(path[0].text, "/sys/devices/pci0000:40/0000:43:00.0");
}

Test(vfio_name, a_card_without_its_virtual_functions)
{
    static const char *const text[] = {"42:00", "0000:42:00", "0:42:0"};
    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        cr_expect_eq(find(text[i]), 2, "%s", text[i]);
        EXPECT_PATH(0, "0000:42:00.0");
        EXPECT_PATH(1, "0000:42:00.1");
    }
    cr_expect_eq(find("0001:42:00"), 1);
    EXPECT_PATH(0, "0001:42:00.0");
    cr_expect_str_eq(fake_log(), "");
}

Test(vfio_name, by_id_the_first_or_so_many)
{
    cr_expect_eq(find("10de:1b80"), 1);
    EXPECT_PATH(0, "0000:42:00.0");
    cr_expect_eq(find("10DE:1B80:2"), 2);
    EXPECT_PATH(1, "0000:43:00.0");
    cr_expect_eq(find("10de:1b81"), 1, "a virtual function has an ID as well");
    cr_expect_eq(vfio_name_find("10de:1b80", not_42, &k, path, 1), 1);
    EXPECT_PATH(0, "0000:43:00.0");
    cr_expect_str_eq(fake_log(), "");
}

Test(vfio_name, too_few_of_an_id)
{
    cr_expect_eq(find("10de:1b80:3"), -EBUSY);
    cr_expect_eq(fake_log_lines(fake_log(), "3 of this ID wanted, 2 there, 2 of them free"), 1);
    cr_expect_eq(vfio_name_find("10de:1b80", never, NULL, path, 8), -EBUSY);
    cr_expect_str_eq(fake_log(),
                     "minivmm: 10de:1b80: cannot find devices: 1 of this ID wanted, 2 there, 0 "
                     "of them free; minivmm host check 10de:1b80:2 tells what each lacks\n");
    cr_expect_eq(find("8086:1b80"), -ENOENT);
    cr_expect_eq(fake_log_lines(fake_log(), "none of this ID"), 1);
}

Test(vfio_name, no_such_card)
{
    cr_expect_eq(find("44:00"), -ENOENT);
    cr_expect_str_eq(fake_log(),
                     "minivmm: 44:00: cannot find card: this machine has none there; "
                     "minivmm host list shows them\n");
}

Test(vfio_name, no_room)
{
    cr_expect_eq(vfio_name_find("42:00", NULL, NULL, path, 1), -E2BIG);
    cr_expect_eq(vfio_name_find("42:00.0", NULL, NULL, path, 0), -E2BIG);
    cr_expect_eq(fake_log_lines(fake_log(), "too many"), 2);
}

Test(vfio_name, refused)
{
    static const char *const text[] = {
        "",
        "42",
        "42:",
        ":00",
        "42:00.",
        "42:00.8",
        "42:20",
        "42:00:0.0.0",
        "10de:1b8",
        "10de:1b80:",
        "10de:1b80:0",
        "10de:1b80:x",
        "+0de:1b80",
        "10de:1b80:-1",
        "10de:1b80:99999",
        "10de:1b80 ",
        "0x10de:1b80",
        "10de:1b80:2:3",
        "gpu",
        "mdev:a/b",
        "unix:/x",
        "42:00 ",
        "1042:00",
        "..",
        "2d76f3c0-7e4b-4d5e-9f0e-3c8e1b0e7a4",
        "2d76f3c0-7e4b-4d5e-9f0e-3c8e1b0e7a4zz",
    };
    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        cr_expect_lt(find(text[i]), 0, "%s", text[i]);
        const char *log = fake_log();
        cr_expect_eq(fake_log_lines(log, "cannot"), 1, "%s: %s", text[i], log);
    }
}

#define UUID "2d76f3c0-7e4b-4d5e-9f0e-3c8e1b0e7a45"

Test(vfio_name, mediated_device_by_its_uuid)
{
    fake_file("/sys/devices/virtual/mtty/mtty/" UUID, NULL);
    fake_link("/sys/devices/virtual/mtty/mtty/" UUID "/subsystem", "../../../../../bus/mdev");
    fake_file("/sys/bus/mdev/devices", NULL);
    fake_link("/sys/bus/mdev/devices/" UUID, "../../../devices/virtual/mtty/mtty/" UUID);
    cr_expect_eq(find(UUID), 1);
    cr_expect_str_eq(path[0].text, "/sys/devices/virtual/mtty/mtty/" UUID);
    cr_expect_eq(find("3d76f3c0-7e4b-4d5e-9f0e-3c8e1b0e7a45"), -ENOENT);
}

/* ---- made ---- */

static char written[256], text_written[64];

static void note_write(const char *file, const char *text)
{
    snprintf(written, sizeof(written), "%s", file);
    snprintf(text_written, sizeof(text_written), "%s", text);
}

Test(vfio_name, mediated_device_is_made_and_removed)
{
    static const char *const parent[][2] = {
        {"mtty/mtty-1", "/sys/class/mdev_bus/mtty"},
        {"42:00.0/mtty-1", FAKE_SYSFS},
        {"/sys/devices/pci0000:40/0000:42:00.0/mtty-1", "/sys/devices/pci0000:40/0000:42:00.0"},
    };
    char want[128], last[64] = "";
    fake_file("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", "");
    fake_file("/sys/devices/pci0000:40/0000:42:00.0/mdev_supported_types/mtty-1/create", "");
    k->written = note_write;
    for (size_t i = 0; i < ARRAY_SIZE(parent); i++) {
        cr_assert_eq(vfio_mdev_create(parent[i][0], path), 0, "%s", fake_log());
        snprintf(want, sizeof(want), "%s/mdev_supported_types/mtty-1/create", parent[i][1]);
        cr_expect_str_eq(written, want);
        cr_expect_eq(strlen(text_written), 36);
        cr_expect_eq(text_written[14], '4');
        cr_expect(strchr("89ab", text_written[19]));
        cr_expect_str_eq(vfio_sysfs_name(path[0].text), text_written);
        cr_expect_str_neq(text_written, last);
        memcpy(last, text_written, sizeof(last));
    }
    snprintf(want, sizeof(want), "%.100s/remove", path[0].text);
    fake_file(want, "");
    vfio_mdev_remove(path[0].text);
    cr_expect_str_eq(written, want);
    cr_expect_str_eq(text_written, "1");
    cr_expect_str_eq(fake_log(), "");
}

Test(vfio_name, mediated_device_that_cannot_be)
{
    static const char *const text[] = {"",      "mtty",  "mtty/",         "/", "mtty/mtty-2",
                                       "x/y/z", "gpu/a", "42:00.0/mtty-1"};
    char longest[600];
    fake_file("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", "");
    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        cr_expect_lt(vfio_mdev_create(text[i], path), 0, "%s", text[i]);
        cr_expect_eq(fake_log_lines(fake_log(), "cannot"), 1, "%s", text[i]);
    }
    memset(longest, 'x', sizeof(longest));
    memcpy(longest + sizeof(longest) - 3, "/a", 3);
    cr_expect_eq(vfio_mdev_create(longest, path), -EINVAL);
    fake_log();
    vfio_mdev_remove("/sys/bus/mdev/devices/" UUID);
    cr_expect_str_eq(fake_log(),
                     "minivmm: " UUID ": cannot remove mediated device: No such file or "
                     "directory; echo 1 > /sys/bus/mdev/devices/" UUID "/remove\n");
}
