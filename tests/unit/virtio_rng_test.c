/* virtio_rng_test.c: random bytes, as many as fit, bounded whatever the driver offers. */
#include "devices/virtio/virtio_rng.h"

#include <criterion/criterion.h>
#include <linux/virtio_ids.h>

#include "tests/unit/virtio_rig.h"
#include "vmm/log.h"

#define WRITE VRING_DESC_F_WRITE
#define NEXT  VRING_DESC_F_NEXT

static struct vrig rig;
static struct virtio *rng;

static void setup(void)
{
    log_set_level(LOG_ERROR);
    vrig_init(&rig);
    cr_assert_eq(virtio_rng_create(&rng, &rig.mem), 0);
    vrig_plug(&rig, rng);
    vrig_start(&rig, 0);
}

static void teardown(void)
{
    vrig_unplug(&rig);
    virtio_destroy(rng);
    virtio_destroy(NULL);
    vrig_fini(&rig);
}

TestSuite(virtio_rng, .init = setup, .fini = teardown);

/* Offers descriptor 0 and returns how many bytes came. */
static uint32_t ask(void)
{
    struct vring_used_elem used = {0};
    vrig_offer(&rig, 0, 0);
    vrig_kick(&rig, 0);
    cr_assert(vrig_used(&rig, 0, &used));
    cr_expect_eq(used.id, 0);
    return used.len;
}

static unsigned zeros(uint64_t gpa, unsigned len)
{
    const uint8_t *at = vrig_at(&rig, gpa, len);
    unsigned n = 0;
    for (unsigned i = 0; i < len; i++)
        n += !at[i];
    return n;
}

Test(virtio_rng, identity)
{
    cr_expect_eq(vrig_config_read(&rig, PCI_DEVICE_ID, 2), 0x1040 + VIRTIO_ID_RNG);
    cr_expect_eq(rig.device, 0, "it has no configuration");
}

Test(virtio_rng, fills_what_it_is_given)
{
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 64, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 1, VRIG_DATA + 0x1000, 192, WRITE);
    cr_expect_eq(ask(), 256);
    cr_expect_lt(zeros(VRIG_DATA, 64), 16, "or a chance of 1 in 10^20");
    cr_expect_lt(zeros(VRIG_DATA + 0x1000, 192), 32);
    cr_expect_eq(zeros(VRIG_DATA + 64, 64), 64);
    cr_expect_eq(zeros(VRIG_DATA + 0x1000 + 192, 64), 64);
    uint8_t first[64];
    memcpy(first, vrig_at(&rig, VRIG_DATA, 64), 64);
    ask();
    cr_expect_neq(memcmp(first, vrig_at(&rig, VRIG_DATA, 64), 64), 0);
}

Test(virtio_rng, work_is_bounded)
{
    struct vring_used_elem used;
    unsigned came = 0;
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 4 * MIB, WRITE);
    cr_expect_eq(ask(), 4096);
    cr_expect_eq(zeros(VRIG_DATA + 4096, 4096), 4096);

    vrig_start(&rig, 0);
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 3000, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 1, VRIG_DATA + 0x1000, 3000, WRITE);
    cr_expect_eq(ask(), 4096);
    cr_expect_eq(zeros(VRIG_DATA + 0x1000 + 1096, 512), 512);

    rig.size = 64;
    vrig_start(&rig, 0);
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 8, WRITE);
    for (unsigned i = 0; i < 40; i++)
        vrig_offer(&rig, 0, 0);
    vrig_kick(&rig, 0);
    while (vrig_used(&rig, 0, &used))
        came++;
    cr_expect_eq(came, 16);
    for (unsigned i = 0; i < 4; i++)
        vrig_pump(&rig);
    while (vrig_used(&rig, 0, &used))
        came++;
    cr_expect_eq(came, 40);
}

Test(virtio_rng, nothing_to_write_into)
{
    memset(vrig_at(&rig, VRIG_DATA, 64), 0x55, 64);
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 64, 0);
    cr_expect_eq(ask(), 0);
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 0, WRITE);
    cr_expect_eq(ask(), 0);
    for (unsigned i = 0; i < 64; i++)
        cr_expect_eq(*(uint8_t *)vrig_at(&rig, VRIG_DATA + i, 1), 0x55);
    cr_expect_not(vrig_status(&rig) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

Test(virtio_rng, outside_ram)
{
    vrig_set_desc(&rig, 0, 0, VRIG_RAM - 32, 64, WRITE);
    vrig_offer(&rig, 0, 0);
    vrig_kick(&rig, 0);
    cr_expect(vrig_status(&rig) & VIRTIO_CONFIG_S_NEEDS_RESET);
}
