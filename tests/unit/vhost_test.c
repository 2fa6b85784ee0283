/*
 * vhost_test.c: devices/virtio/vhost.c and vhost_kernel.c under virtio_vsock.c, with a kernel
 * that writes down what it is asked; and the transport's part: doorbells and vectors of queues
 * that are served outside.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "devices/virtio/vhost.h"
#include "devices/virtio/virtio_vsock.h"
#include "tests/unit/fake_vfio_kernel.h"
#include "tests/unit/fake_vfio_server.h"
#include "tests/unit/virtio_rig.h"
#include "vmm/log.h"

#define CID         42
#define NODE        "/dev/vhost-vsock"
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define RUNNING     (VRIG_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK)
#define COMMAND     (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)

static struct vrig rig;
static struct virtio *vsock;
static struct fake_vfio_kernel *os;

/* The kernel's side. */
static struct {
    char trace[2048];
    uint64_t features, agreed;
    unsigned long fail_request;
    int fail_errno;
    bool owned, running;
    uint64_t cid;
    unsigned regions;
    struct vhost_memory_region region;
    struct vhost_vring_addr addr[2];
    unsigned num[2], base[2];
    int kick[2], call[2], err[2], backend[2];
} kernel;

static const struct {
    unsigned long request;
    const char *name;
} names[] = {
    {VHOST_SET_OWNER, "owner"},       {VHOST_GET_FEATURES, "features?"},
    {VHOST_SET_FEATURES, "features"}, {VHOST_SET_MEM_TABLE, "memory"},
    {VHOST_SET_VRING_NUM, "num"},     {VHOST_SET_VRING_BASE, "base"},
    {VHOST_GET_VRING_BASE, "base?"},  {VHOST_SET_VRING_ADDR, "addr"},
    {VHOST_SET_VRING_ERR, "err"},     {VHOST_SET_VRING_KICK, "kick"},
    {VHOST_SET_VRING_CALL, "call"},   {VHOST_VSOCK_SET_GUEST_CID, "cid"},
    {VHOST_VSOCK_SET_RUNNING, "run"}, {VHOST_NET_SET_BACKEND, "backend"},
};

static const char *name_of(unsigned long request)
{
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (names[i].request == request)
            return names[i].name;
    }
    return "?";
}

static int answer(unsigned long request, void *arg)
{
    struct vhost_vring_state *state = arg;
    const struct vhost_vring_file *file = arg;
    const struct vhost_vring_addr *addr = arg;
    switch (request) {
    case VHOST_SET_OWNER:
        if (kernel.owned)
            return EBUSY;
        kernel.owned = true;
        return 0;
    case VHOST_GET_FEATURES:
        *(uint64_t *)arg = kernel.features;
        return 0;
    case VHOST_SET_FEATURES:
        kernel.agreed = *(uint64_t *)arg;
        return 0;
    case VHOST_VSOCK_SET_GUEST_CID:
        kernel.cid = *(uint64_t *)arg;
        return 0;
    case VHOST_VSOCK_SET_RUNNING:
        kernel.running = *(int *)arg;
        return 0;
    case VHOST_SET_MEM_TABLE:
        kernel.regions = ((struct vhost_memory *)arg)->nregions;
        kernel.region = ((struct vhost_memory *)arg)->regions[0];
        return 0;
    }
    if (state->index > 1)
        return EINVAL;
    switch (request) {
    case VHOST_SET_VRING_NUM:
        if (kernel.running)
            return EBUSY;
        kernel.num[state->index] = state->num;
        return 0;
    case VHOST_SET_VRING_BASE:
        kernel.base[state->index] = state->num;
        return 0;
    case VHOST_GET_VRING_BASE:
        state->num = kernel.base[state->index];
        return 0;
    case VHOST_SET_VRING_ADDR:
        kernel.addr[addr->index] = *addr;
        return 0;
    case VHOST_SET_VRING_KICK:
        kernel.kick[file->index] = file->fd;
        return 0;
    case VHOST_SET_VRING_CALL:
        kernel.call[file->index] = file->fd;
        return 0;
    case VHOST_SET_VRING_ERR:
        kernel.err[file->index] = file->fd;
        return 0;
    case VHOST_NET_SET_BACKEND:
        kernel.backend[file->index] = file->fd;
        return 0;
    }
    return ENOTTY;
}

static int kernel_ioctl(int fd, unsigned long request, void *arg)
{
    size_t len = strlen(kernel.trace);
    (void)fd;
    snprintf(kernel.trace + len, sizeof(kernel.trace) - len, "%s ", name_of(request));
    int err = answer(request, arg);
    if (request == kernel.fail_request)
        err = kernel.fail_errno;
    errno = err;
    return err ? -1 : 0;
}

static void before(void)
{
    log_set_level(LOG_WARN);
    os = fake_vfio_kernel_init();
    os->other_ioctl = kernel_ioctl;
    fake_file(NODE, "");
    fake_file("/dev/vhost-net", "");
    kernel.features = ~0ULL;
    vrig_init(&rig);
}

static void after(void)
{
    vrig_fini(&rig);
    fake_vfio_kernel_fini();
}

static void setup(void)
{
    before();
    cr_assert_eq(virtio_vsock_create(&vsock, CID, rig.loop, &rig.mem), 0);
    vrig_plug(&rig, vsock);
}

static void teardown(void)
{
    vrig_unplug(&rig);
    virtio_destroy(vsock);
    virtio_destroy(NULL);
    after();
}

TestSuite(vhost, .init = setup, .fini = teardown);
TestSuite(vhost_open, .init = before, .fini = after);

static void traced(const char *wanted)
{
    cr_expect_str_eq(kernel.trace, wanted);
    kernel.trace[0] = '\0';
}

/* The driver has started the device, with a vector for each queue. */
static void running(void)
{
    vrig_start(&rig, 0);
    vrig_msix(&rig);
    cr_assert(kernel.running);
    kernel.trace[0] = '\0';
}

static uint64_t read_fd(int fd)
{
    eventfd_t value = 0;
    eventfd_read(fd, &value);
    return value;
}

static void set_vector(unsigned queue, unsigned vector)
{
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_Q_MSIX, 2, vector);
}

#define START "features memory call num base addr err kick call num base addr err kick run "
#define STOP  "run base? base? "

Test(vhost, the_sequence)
{
    traced("owner features? cid ");
    cr_expect_eq(kernel.cid, CID);
    cr_expect_eq(vrig_read(&rig, rig.device, 8), CID);
    cr_expect_eq(vrig_config_read(&rig, PCI_DEVICE_ID, 2), 0x1040 + VIRTIO_ID_VSOCK);
    vrig_start(&rig, 1ULL << VIRTIO_VSOCK_F_SEQPACKET | 1ULL << VIRTIO_RING_F_EVENT_IDX);
    traced(START);
    cr_expect(kernel.running);
    cr_expect_eq(kernel.agreed, 1ULL << VIRTIO_VSOCK_F_SEQPACKET |
                                    1ULL << VIRTIO_RING_F_EVENT_IDX |
                                    1ULL << VIRTIO_F_VERSION_1);
    cr_expect_eq(kernel.regions, 1);
    cr_expect_eq(kernel.region.guest_phys_addr, 0);
    cr_expect_eq(kernel.region.memory_size, VRIG_RAM);
    cr_expect_eq(kernel.region.userspace_addr, (uintptr_t)rig.mem.region[0].hva);
    for (unsigned q = 0; q < 2; q++) {
        cr_expect_eq(kernel.num[q], VRIG_SIZE);
        cr_expect_eq(kernel.base[q], 0);
        cr_expect_eq(kernel.addr[q].desc_user_addr, (uintptr_t)vrig_desc(&rig, q, 0));
        cr_expect_eq(kernel.addr[q].avail_user_addr, (uintptr_t)vrig_avail(&rig, q));
        cr_expect_eq(kernel.addr[q].used_user_addr, (uintptr_t)vrig_used_ring(&rig, q));
        cr_expect_eq(kernel.addr[q].flags, 0);
        cr_expect_eq(read_fd(kernel.kick[q]), 1, "what is there already is looked at");
    }
    vrig_set_status(&rig, RUNNING);
    traced("call call ");
    vrig_set_status(&rig, 0);
    traced(STOP);
    cr_expect_not(kernel.running);
    vrig_set_status(&rig, 0);
    traced("");
}

/* A kick reaches the kernel without anybody in between, and only of its own queue. */
Test(vhost, doorbells)
{
    running();
    for (unsigned q = 0; q < 2; q++) {
        uint64_t at = vrig_doorbell(&rig, q);
        unsigned found = 0;
        read_fd(kernel.kick[q]);
        for (unsigned i = 0; i < FAKE_HV_MAX; i++) {
            const struct fake_ioeventfd *io = &rig.fake.ioeventfd[i];
            if (io->used && io->addr == rig.bar + at) {
                found++;
                cr_expect_eq(io->fd, kernel.kick[q]);
                cr_expect_eq(io->len, 2);
            }
        }
        cr_expect_eq(found, 1);
        vrig_kick(&rig, q); /* where there is no ioeventfd: by an exit */
        cr_expect_eq(read_fd(kernel.kick[q]), 1);
        cr_expect_eq(read_fd(kernel.kick[!q]), q ? 0 : 1);
    }
    cr_expect_eq(vrig_doorbell(&rig, 2), rig.notify, "the queue that is served here");
    vrig_kick(&rig, 2);
    cr_expect_eq(read_fd(kernel.kick[0]) + read_fd(kernel.kick[1]), 0);
    /* The area ends behind the last one. */
    vrig_write(&rig, rig.notify + 3ULL * rig.multiplier, 2, 0);
    vrig_kick(&rig, 0);
}

/* The kernel's interrupt is the vector's eventfd, which KVM has. */
Test(vhost, vectors)
{
    running();
    for (unsigned q = 0; q < 2; q++) {
        eventfd_write(kernel.call[q], 1);
        cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI + q));
        cr_expect_not(fake_hv_deliver_data(&rig.fake, VRIG_MSI + !q));
    }
    kernel.trace[0] = '\0';
    set_vector(0, 2);
    traced("call call ");
    eventfd_write(kernel.call[0], 1);
    cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI + 2));
    cr_expect_not(fake_hv_deliver_data(&rig.fake, VRIG_MSI));
    cr_expect(kernel.running);
}

static unsigned msix_capability(void)
{
    unsigned pos = vrig_config_read(&rig, PCI_CAPABILITY_LIST, 1);
    while (pos && vrig_config_read(&rig, pos, 1) != PCI_CAP_ID_MSIX)
        pos = vrig_config_read(&rig, pos + PCI_CAP_LIST_NEXT, 1);
    return pos;
}

/* An interrupt while its vector is masked waits there. */
Test(vhost, masked_vector)
{
    unsigned pos = msix_capability();
    uint64_t table = vrig_config_read(&rig, pos + PCI_MSIX_TABLE, 4);
    uint64_t pba = vrig_config_read(&rig, pos + PCI_MSIX_PBA, 4);
    running();
    vrig_write(&rig, table + 16 + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, 1);
    eventfd_write(kernel.call[1], 1);
    cr_expect_not(fake_hv_deliver_data(&rig.fake, VRIG_MSI + 1));
    cr_expect_eq(vrig_read(&rig, pba, 8), 2);
    vrig_write(&rig, table + 16 + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, 0);
    cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI + 1));
}

/* Without MSI-X, also in the middle of it: by the pin. */
Test(vhost, interrupt_by_pin)
{
    running();
    vrig_config_write(&rig, msix_capability() + PCI_MSIX_FLAGS, 2, 0);
    eventfd_write(kernel.call[1], 1);
    vrig_pump(&rig);
    cr_expect(rig.fake.level[VRIG_GSI]);
    cr_expect_eq(vrig_read(&rig, rig.isr, 1), 1);
    cr_expect_not(rig.fake.level[VRIG_GSI]);

    /* Signalled before the driver chose a vector, seen after. */
    eventfd_write(kernel.call[0], 1);
    vrig_config_write(&rig, msix_capability() + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
    vrig_pump(&rig);
    cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI));
    cr_expect_not(rig.fake.level[VRIG_GSI]);
    /* Of a device that was reset meanwhile. */
    vrig_config_write(&rig, msix_capability() + PCI_MSIX_FLAGS, 2, 0);
    eventfd_write(kernel.call[0], 1);
    vrig_set_status(&rig, 0);
    vrig_pump(&rig);
    cr_expect_not(rig.fake.level[VRIG_GSI]);
}

Test(vhost, no_vector_is_no_interrupt)
{
    running();
    set_vector(0, VIRTIO_MSI_NO_VECTOR);
    eventfd_write(kernel.call[0], 1);
    vrig_pump(&rig);
    for (unsigned i = 0; i < 4; i++)
        cr_expect_eq(fake_hv_deliver_data(&rig.fake, VRIG_MSI + i), i == 1,
                     "only the other queue's, which may be looked at for nothing");
    cr_expect_not(rig.fake.level[VRIG_GSI]);
}

/* No memory without bus mastering; it goes on where it was. */
Test(vhost, bus_mastering)
{
    running();
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    traced(STOP);
    vrig_config_write(&rig, PCI_COMMAND, 2, COMMAND);
    traced(START);
    kernel.base[0] = 9;
    kernel.base[1] = 0xffff;
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    vrig_config_write(&rig, PCI_COMMAND, 2, COMMAND);
    cr_expect_eq(kernel.base[0], 9);
    cr_expect_eq(kernel.base[1], 0xffff);
    running();
    cr_expect_eq(kernel.base[0], 0, "a reset is a new start");
}

/* A driver that has set up no queue yet. */
static void agreed(void)
{
    running();
    vrig_set_status(&rig, 0);
    kernel.trace[0] = '\0';
    vrig_set_status(&rig, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_GF, 4, 1);
    vrig_set_status(&rig, VRIG_DRIVER);
}

Test(vhost, not_before_all_queues_are_enabled)
{
    agreed();
    vrig_enable_queue(&rig, 1);
    vrig_set_status(&rig, RUNNING);
    traced("");
    cr_expect_eq(vrig_status(&rig), RUNNING);
}

/* Rings outside RAM never reach the kernel. */
Test(vhost, rings_not_in_ram)
{
    agreed();
    vrig_enable_queue(&rig, 0);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_Q_DESCLO, 8, VRIG_RAM - 16);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_Q_AVAILLO, 8, 0x1000);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_Q_USEDLO, 8, 0x2000);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    vrig_set_status(&rig, RUNNING);
    traced("");
    cr_expect(vrig_status(&rig) & NEEDS_RESET);
}

/* Whatever the kernel refuses: a message, NEEDS_RESET, and a reset mends it. */
Test(vhost, a_start_that_fails)
{
    static const unsigned long requests[] = {
        VHOST_SET_FEATURES,   VHOST_SET_MEM_TABLE,  VHOST_SET_VRING_NUM,
        VHOST_SET_VRING_BASE, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_ERR,
        VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_VSOCK_SET_RUNNING};
    running();
    fake_log();
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        kernel.fail_request = requests[i];
        kernel.fail_errno = EFAULT;
        vrig_config_write(&rig, PCI_COMMAND, 2, COMMAND);
        cr_expect_eq(vrig_status(&rig), RUNNING | NEEDS_RESET, "%s", name_of(requests[i]));
        cr_expect_not(kernel.running);
        cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI + 3), "configuration change");
        const char *log = fake_log();
        cr_expect_eq(fake_log_lines(log, "virtio-vsock: cannot serve"), 1, "%s", log);
        cr_expect_eq(fake_log_lines(log, "Bad address"), 1, "%s", log);
        kernel.fail_request = 0;
        running();
    }
}

/* A ring with nonsense in it is the kernel's to find, and ends the device. */
Test(vhost, error_in_a_ring)
{
    running();
    cr_expect_eq(kernel.err[0], kernel.err[1]);
    fake_log();
    kernel.trace[0] = '\0';
    eventfd_write(kernel.err[1], 1);
    vrig_pump(&rig);
    cr_expect_eq(vrig_status(&rig), RUNNING | NEEDS_RESET);
    traced(STOP);
    cr_expect_eq(fake_log_lines(fake_log(), "make no sense"), 1);
    running();
    vrig_set_status(&rig, 0);
    eventfd_write(kernel.err[1], 1);
    vrig_pump(&rig);
    cr_expect_eq(vrig_status(&rig), 0, "of the time before");
}

Test(vhost, a_hundred_reboots)
{
    unsigned files = 0;
    for (unsigned i = 0; i < 100; i++) {
        running();
        virtio_pci_reset(rig.vp);
        cr_assert_not(kernel.running);
        pci_bus_reset(&rig.bus);
        cr_assert_eq(pci_bus_assign(&rig.bus), 0);
        vrig_config_write(&rig, PCI_COMMAND, 2, COMMAND);
        if (!files)
            files = fake_open_files();
        kernel.trace[0] = '\0';
    }
    cr_expect_eq(fake_open_files(), files);
}

/* ---- opening ---- */

static int try(const char *word, int err)
{
    unsigned files = fake_open_files();
    fake_log();
    cr_expect_eq(virtio_vsock_create(&vsock, CID, rig.loop, &rig.mem), err);
    const char *log = fake_log();
    cr_expect_eq(fake_log_lines(log, word), 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, "--vsock: cannot"), 1, "%s", log);
    cr_expect_eq(fake_open_files(), files);
    return 0;
}

Test(vhost_open, says_what_to_do)
{
    kernel.fail_request = VHOST_VSOCK_SET_GUEST_CID;
    kernel.fail_errno = EADDRINUSE;
    try("CID 42", -EADDRINUSE);
    kernel.owned = false;
    kernel.fail_request = VHOST_SET_OWNER;
    kernel.fail_errno = ENOMEM;
    try("modprobe vhost_vsock", -ENOMEM);
    kernel.fail_request = 0;
    kernel.owned = false;
    kernel.features = ~(1ULL << VIRTIO_F_VERSION_1);
    try("not supported", -EPROTONOSUPPORT);
    fake_remove(NODE);
    try("modprobe vhost_vsock", -ENOENT);
}

/* A feature of the rings that the kernel has not is not offered. */
Test(vhost_open, features_are_the_kernels)
{
    kernel.features = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1U;
    cr_assert_eq(virtio_vsock_create(&vsock, CID, rig.loop, &rig.mem), 0);
    cr_expect_eq(vsock->features,
                 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC);
    virtio_destroy(vsock);
}

/* ---- vhost-net: two queues of a device with four ---- */

static struct vhost pair[2];
static struct vhost_device net = {.server = &pair[1]};

Test(vhost_open, net_has_a_backend_for_each_queue)
{
    net.virtio = (struct virtio){.ops = &vhost_device_ops,
                                 .name = "net",
                                 .mem = &rig.mem,
                                 .id = 1,
                                 .queues = 5,
                                 .outside = 4};
    virtio_init(&net.virtio);
    cr_assert_eq(vhost_net_open(&pair[1], &net.virtio, rig.loop, 2, 77), 0);
    traced("owner features? ");
    vrig_plug(&rig, &net.virtio);
    vrig_start(&rig, 0);
    traced("features memory call num base addr err kick call num base addr err kick backend "
           "backend ");
    for (unsigned q = 0; q < 2; q++) {
        cr_expect_eq(kernel.addr[q].desc_user_addr, (uintptr_t)vrig_desc(&rig, q + 2, 0));
        cr_expect_eq(kernel.backend[q], 77);
        read_fd(kernel.kick[q]);
        vrig_kick(&rig, q + 2);
        cr_expect_eq(read_fd(kernel.kick[q]), 1);
    }
    vrig_set_status(&rig, 0);
    traced("backend backend base? base? ");
    cr_expect_eq(kernel.backend[0], -1);
    cr_expect_eq(kernel.backend[1], -1);
    vrig_unplug(&rig);
    vhost_close(&pair[1]);
    vhost_close(&pair[0]); /* never opened */
}
