/*
 * vhost_user_test.c: devices/virtio/vhost_user.c under virtio_fs.c, with a server at the other
 * end of a socketpair: a good one, and those that lie, hang, die, or send what nobody asked
 * for.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/virtio/vhost_user.h"
#include "devices/virtio/virtio_fs.h"
#include "tests/unit/fake_vfio_kernel.h"
#include "tests/unit/fake_vfio_server.h"
#include "tests/unit/virtio_rig.h"
#include "vmm/log.h"

#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define RUNNING     (VRIG_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK)
#define PROTOCOL    (1ULL << 30)
#define VERSION_1   (1ULL << VIRTIO_F_VERSION_1)
#define PATIENCE_NS (NS_PER_S / 2)

/* The protocol's numbers, written down a second time. */
enum {
    GET_FEATURES = 1,
    SET_FEATURES,
    SET_OWNER,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    GET_VRING_BASE,
    SET_VRING_KICK,
    SET_VRING_CALL,
    SET_VRING_ERR,
    GET_PROTOCOL_FEATURES,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ENABLE = 18,
};

enum fault {
    NONE,
    SILENT,   /* no answer */
    CLOSE,    /* and no answer */
    WRONG_ID, /* from here on: the answer is not one */
    WRONG_SIZE,
    WRONG_VERSION,
    NO_REPLY_FLAG,
    HALF,  /* of the answer, then nothing */
    EXTRA, /* something behind the answer */
    FDS,   /* descriptors with it, which is harmless */
    NACK,  /* refused */
    SLOW,  /* every answer, none so much that it were too late by itself */
};

static struct server {
    int fd;
    pthread_t thread;
    uint64_t features, protocol;
    unsigned fault_at; /* the message's number */
    enum fault fault;

    char trace[2048];
    unsigned misuse; /* what a server should not have to see */
    uint64_t agreed, agreed_protocol;
    uint64_t region[4]; /* of the memory table: where, how much, ours, offset */
    int memory, kick[2], call[2], err[2];
    struct vhost_vring_addr addr[2];
    unsigned num[2], base[2];
    bool enabled[2];
} server;

static struct vrig rig;

/* A device of two queues, both the server's; nobody waits for long here. */
static struct vhost_user vhost_user;
static struct vhost_device dev = {.server = &vhost_user.vhost};

struct __attribute__((packed)) packet {
    uint32_t id, flags, size;
    union {
        uint64_t number;
        struct vhost_vring_state state;
        struct vhost_vring_addr addr;
        uint64_t word[16];
    };
};

static bool receive(struct packet *p, int *fd)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {p, 12};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    *fd = -1;
    if (recvmsg(server.fd, &msg, MSG_WAITALL | MSG_CMSG_CLOEXEC) != 12)
        return false;
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c)
        memcpy(fd, CMSG_DATA(c), sizeof(*fd));
    server.misuse += msg.msg_flags & MSG_CTRUNC || p->size > sizeof(p->word);
    return !p->size || recv(server.fd, &p->number, p->size, MSG_WAITALL) == (ssize_t)p->size;
}

static void keep(int *where, int fd)
{
    if (*where > 0)
        close(*where);
    *where = fd;
    server.misuse += fd < 0;
}

/* True: P is the answer. */
static bool serve(struct packet *p, int fd)
{
    unsigned i = p->state.index;
    uint64_t number = p->number;
    bool ask = true;
    server.misuse += (p->id == GET_FEATURES || p->id == GET_PROTOCOL_FEATURES ||
                      p->id == SET_OWNER) != !p->size;
    switch (p->id) {
    case GET_FEATURES:
        p->number = server.features;
        break;
    case GET_PROTOCOL_FEATURES:
        p->number = server.protocol;
        break;
    case GET_VRING_BASE:
        p->state.num = server.base[i];
        server.enabled[i] = false;
        break;
    default:
        ask = false;
    }
    p->size = ask ? 8 : p->size;
    if (ask)
        return true;
    if (p->id >= SET_VRING_NUM && p->id <= SET_VRING_ENABLE && p->id != SET_PROTOCOL_FEATURES &&
        i > 1) {
        server.misuse++;
        return false;
    }
    switch (p->id) {
    case SET_FEATURES:
        server.agreed = number;
        break;
    case SET_PROTOCOL_FEATURES:
        server.agreed_protocol = number;
        break;
    case SET_MEM_TABLE:
        server.misuse += p->word[0] != 1 || p->size != 8 + 32;
        memcpy(server.region, &p->word[1], sizeof(server.region));
        keep(&server.memory, fd);
        break;
    case SET_VRING_NUM:
        server.num[i] = p->state.num;
        break;
    case SET_VRING_BASE:
        server.base[i] = p->state.num;
        break;
    case SET_VRING_ADDR:
        server.addr[i] = p->addr;
        break;
    case SET_VRING_ENABLE:
        server.enabled[i] = p->state.num;
        break;
    case SET_VRING_KICK:
        keep(&server.kick[number & 0xff], fd);
        break;
    case SET_VRING_CALL:
        keep(&server.call[number & 0xff], fd);
        break;
    case SET_VRING_ERR:
        keep(&server.err[number & 0xff], fd);
        break;
    }
    return false;
}

static void answer(struct packet *p, bool ask, enum fault fault)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.head = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    if (!ask) {
        p->number = fault == NACK;
        p->size = 8;
    }
    p->flags |= fault == NO_REPLY_FLAG ? 0 : 4;
    p->flags ^= fault == WRONG_VERSION ? 3 : 0;
    p->id += fault == WRONG_ID;
    p->size += fault == WRONG_SIZE ? 4 : 0;
    struct iovec iov = {p, 12 + (fault == HALF ? 4 : p->size)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fault == FDS) {
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control);
        memcpy(CMSG_DATA(&control.head), &server.fd, sizeof(int));
    }
    sendmsg(server.fd, &msg, MSG_NOSIGNAL);
    if (fault == EXTRA)
        send(server.fd, "surprise", 8, MSG_NOSIGNAL);
}

static void *server_thread(void *opaque)
{
    struct packet p;
    int fd;
    (void)opaque;
    while (receive(&p, &fd)) {
        enum fault fault = p.id == server.fault_at ? server.fault : NONE;
        size_t len = strlen(server.trace);
        snprintf(server.trace + len, sizeof(server.trace) - len, "%u%s ", p.id,
                 p.flags & 8 ? "!" : "");
        server.misuse += (p.flags & 3) != 1;
        if (fault == CLOSE)
            break;
        if (fault == SILENT)
            continue;
        if (server.fault == SLOW)
            usleep(PATIENCE_NS / 1000 / 5);
        bool ask = serve(&p, fd);
        if (ask || p.flags & 8)
            answer(&p, ask, fault);
    }
    shutdown(server.fd, SHUT_RDWR);
    return NULL;
}

static int connect_server(uint64_t features, uint64_t protocol)
{
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    server = (struct server){.fd = fds[0], .features = features, .protocol = protocol};
    cr_assert_eq(pthread_create(&server.thread, NULL, server_thread, NULL), 0);
    return fds[1];
}

static void end_server(void)
{
    const int fds[] = {server.memory,  server.kick[0], server.kick[1], server.call[0],
                       server.call[1], server.err[0],  server.err[1]};
    pthread_join(server.thread, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] > 0)
            close(fds[i]);
    }
    close(server.fd);
}

static void before(void)
{
    log_set_level(LOG_WARN);
    fake_vfio_kernel_init(); /* for what is logged */
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
    dev.virtio = (struct virtio){.ops = &vhost_device_ops,
                                 .name = "dir",
                                 .mem = &rig.mem,
                                 .id = 42,
                                 .queues = 2,
                                 .outside = 2};
    virtio_init(&dev.virtio);
    int fd = connect_server(VERSION_1 | PROTOCOL, ~0ULL);
    cr_assert_eq(vhost_user_open(&vhost_user, &dev.virtio, rig.loop, fd), 0);
    vrig_plug(&rig, &dev.virtio);
}

static void teardown(void)
{
    vrig_unplug(&rig);
    vhost_close(&vhost_user.vhost);
    end_server();
    after();
}

TestSuite(vhost_user, .init = setup, .fini = teardown);
TestSuite(virtio_fs, .init = before, .fini = after);

static void traced(const char *wanted)
{
    cr_expect_str_eq(server.trace, wanted);
    server.trace[0] = '\0';
}

static void running(void)
{
    vrig_start(&rig, 0);
    vrig_msix(&rig);
    cr_assert_eq(vrig_status(&rig), RUNNING);
    server.trace[0] = '\0';
}

#define QUEUE "13! 8! 10! 9! 14! 12! "
#define START "2! 5! " QUEUE QUEUE "18! 18! "
#define STOP  "11 11 "

static bool same_file(int a, int b)
{
    struct stat x, y;
    return !fstat(a, &x) && !fstat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

Test(vhost_user, the_sequence)
{
    traced("3 1 15 16 ");
    cr_expect_eq(server.agreed_protocol, 1 << 3, "answers to all, and nothing else");
    vrig_start(&rig, 0);
    traced(START);
    cr_expect_eq(server.agreed, VERSION_1 | PROTOCOL);
    cr_expect_eq(server.region[0], 0);
    cr_expect_eq(server.region[1], VRIG_RAM);
    cr_expect_eq(server.region[2], (uintptr_t)rig.mem.region[0].hva);
    cr_expect_eq(server.region[3], 0);
    cr_expect(same_file(server.memory, rig.mem.fd));
    for (unsigned q = 0; q < 2; q++) {
        cr_expect(server.enabled[q]);
        cr_expect_eq(server.num[q], VRIG_SIZE);
        cr_expect_eq(server.addr[q].desc_user_addr, (uintptr_t)vrig_desc(&rig, q, 0));
        cr_expect_eq(server.addr[q].used_user_addr, (uintptr_t)vrig_used_ring(&rig, q));
        cr_expect_eq(server.addr[q].avail_user_addr, (uintptr_t)vrig_avail(&rig, q));
    }
    vrig_set_status(&rig, 0);
    traced(STOP);
    cr_expect_eq(server.misuse, 0);
}

/* The eventfds arrive; they are the doorbell and the vector. */
Test(vhost_user, eventfds)
{
    eventfd_t value;
    running();
    for (unsigned q = 0; q < 2; q++) {
        eventfd_write(server.call[q], 1);
        cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI + q));
        cr_expect_eq(eventfd_read(server.kick[q], &value), 0); /* of the start */
        vrig_kick(&rig, q);
        cr_expect_eq(eventfd_read(server.kick[q], &value), 0);
    }
    server.base[1] = 5;
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    traced(STOP);
    server.base[1] = 0;
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    traced(START);
    cr_expect_eq(server.base[1], 5);
    eventfd_write(server.err[0], 1);
    vrig_pump(&rig);
    cr_expect_eq(vrig_status(&rig), RUNNING | NEEDS_RESET);
}

/* As vrig_start() does it, of a device that may not take it. */
static void driver_starts(void)
{
    vrig_set_status(&rig, VRIG_DRIVER & ~VIRTIO_CONFIG_S_FEATURES_OK);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_GF, 4, 1);
    vrig_set_status(&rig, VRIG_DRIVER);
    vrig_enable_queue(&rig, 0);
    vrig_enable_queue(&rig, 1);
    vrig_set_status(&rig, RUNNING);
    cr_expect_eq(vrig_status(&rig), RUNNING | NEEDS_RESET);
}

/* What is left to expect once the server is gone: one message, and a guest that goes on. */
static void expect_lost(const char *why)
{
    const char *log = fake_log();
    cr_expect_eq(fake_log_lines(log, "cannot"), 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, why), 1, "%s: %s", why, log);
    vrig_pump(&rig); /* the loop looks once more, and lets go */
    vrig_pump(&rig);
    vrig_set_status(&rig, 0);
    cr_expect_eq(vrig_status(&rig), 0);
    driver_starts(); /* and it does not come back */
    cr_expect_str_empty(fake_log());
}

Test(vhost_user, server_dies)
{
    running();
    shutdown(server.fd, SHUT_RDWR);
    vrig_pump(&rig);
    cr_expect_eq(vrig_status(&rig), RUNNING | NEEDS_RESET);
    cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI + 2), "the driver is told");
    expect_lost("closed the connection");
}

Test(vhost_user, server_talks)
{
    running();
    send(server.fd, "hello", 5, MSG_NOSIGNAL);
    vrig_pump(&rig);
    cr_expect_eq(vrig_status(&rig), RUNNING | NEEDS_RESET);
    expect_lost("not asked");
}

static const struct {
    enum fault fault;
    const char *why;
} faults[] = {
    {SILENT, "does not answer"},     {CLOSE, "closed the connection"},
    {WRONG_ID, "that is none"},      {WRONG_SIZE, "that is none"},
    {WRONG_VERSION, "that is none"}, {NO_REPLY_FLAG, "that is none"},
    {HALF, "does not answer"},
};

/* At a question and at an order, in the start and in the stop. */
static void fault_at(unsigned at, unsigned n)
{
    running();
    vrig_set_status(&rig, 0);
    server.fault_at = at;
    server.fault = faults[n].fault;
    vhost_user.vhost.patience = PATIENCE_NS;
    fake_log();
    if (at == GET_VRING_BASE) {
        server.fault_at = 0;
        running();
        server.fault_at = at;
        vrig_set_status(&rig, 0);
        cr_expect_eq(vrig_status(&rig), 0);
    } else {
        driver_starts();
    }
    expect_lost(faults[n].why);
}

#define FAULT_TESTS(n)                             \
    Test(vhost_user, bad_answer_to_order_##n)      \
    {                                              \
        fault_at(SET_VRING_ADDR, n);               \
    }                                              \
    Test(vhost_user, bad_answer_to_question_##n)   \
    {                                              \
        fault_at(GET_VRING_BASE, n);               \
    }                                              \
    Test(vhost_user, bad_answer_to_last_order_##n) \
    {                                              \
        fault_at(SET_VRING_ENABLE, n);             \
    }
FAULT_TESTS(0)
FAULT_TESTS(1)
FAULT_TESTS(2)
FAULT_TESTS(3)
FAULT_TESTS(4)
FAULT_TESTS(5)
FAULT_TESTS(6)
_Static_assert(ARRAY_SIZE(faults) == 7, "a test for each");

/* The time is for all of a start. */
Test(vhost_user, slow_answers)
{
    running();
    vrig_set_status(&rig, 0);
    server.fault = SLOW;
    vhost_user.vhost.patience = PATIENCE_NS;
    fake_log();
    driver_starts();
    expect_lost("does not answer");
}

/* A server of our own that is late in a stop does not get at the guest's memory later. */
Test(vhost_user, late_server_is_killed)
{
    int status = 0;
    running();
    vhost_user.group = fork();
    if (vhost_user.group == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
    }
    cr_assert_eq(setpgid(vhost_user.group, 0), 0);
    vhost_user.vhost.patience = PATIENCE_NS;
    server.fault = SILENT;
    server.fault_at = GET_VRING_BASE;
    vrig_set_status(&rig, 0);
    for (unsigned n = 0; n < 500 && !waitpid(vhost_user.group, &status, WNOHANG); n++)
        usleep(10000);
    cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    kill(-vhost_user.group, SIGKILL);
    vhost_user.group = 0;
}

/* Descriptors that nobody asked for are not kept. */
Test(vhost_user, surprise_descriptors)
{
    running();
    unsigned files = fake_open_files();
    server.fault = FDS;
    for (unsigned at = SET_VRING_NUM; at <= SET_VRING_ENABLE; at++) {
        server.fault_at = at;
        vrig_set_status(&rig, 0);
        running();
    }
    cr_expect_eq(fake_open_files(), files);
}

/* The server refuses: said, and a reset mends it. */
Test(vhost_user, refusal)
{
    running();
    fake_log();
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    server.fault_at = SET_MEM_TABLE;
    server.fault = NACK;
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    cr_expect_eq(vrig_status(&rig), RUNNING | NEEDS_RESET);
    cr_expect_eq(fake_log_lines(fake_log(), "dir: cannot serve the guest's driver"), 1);
    server.fault = NONE;
    running();
}

static void steal(void *opaque, uint32_t events)
{
    eventfd_t value;
    (void)opaque, (void)events;
    cr_expect_eq(eventfd_read(server.err[0], &value), 0);
}

/* An eventfd's flags are shared: the server makes one block, and takes back what it signalled.
 */
Test(vhost_user, loop_does_not_block)
{
    running();
    int first = loop_add_eventfd(rig.loop, steal, NULL);
    cr_assert_eq(fcntl(server.err[0], F_SETFL, 0), 0);
    eventfd_write(first, 1);
    eventfd_write(server.err[0], 1);
    vrig_pump(&rig);
    loop_close(rig.loop, first);
}

/* Something behind an answer is found by the next question, or by the loop. */
Test(vhost_user, more_than_an_answer)
{
    running();
    server.fault_at = SET_VRING_CALL;
    server.fault = EXTRA;
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
    vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
    vrig_pump(&rig);
    cr_expect_eq(vrig_status(&rig), RUNNING | NEEDS_RESET);
}

Test(vhost_user, a_hundred_reboots)
{
    unsigned files = 0;
    for (unsigned i = 0; i < 100; i++) {
        running();
        virtio_pci_reset(rig.vp);
        pci_bus_reset(&rig.bus);
        cr_assert_eq(pci_bus_assign(&rig.bus), 0);
        vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        if (!files)
            files = fake_open_files();
    }
    cr_expect_eq(fake_open_files(), files);
    cr_expect_eq(server.misuse, 0);
}

/* ---- virtio-fs ---- */

static struct virtio *fs;

static int create_fs(int socket)
{
    const struct virtio_fs_setup setup = {"dir", "work", socket, 0, rig.loop, &rig.mem};
    return virtio_fs_create(&fs, &setup);
}

/* A server of before the protocol's own features: rings start by themselves, nothing is
 * acknowledged. */
Test(virtio_fs, without_extras)
{
    int fd = connect_server(VERSION_1, 0);
    cr_assert_eq(create_fs(fd), 0);
    vrig_plug(&rig, fs);
    char tag[VIRTIO_FS_TAG_MAX];
    for (unsigned i = 0; i < sizeof(tag); i++)
        tag[i] = (char)vrig_read(&rig, rig.device + i, 1);
    cr_expect_eq(memcmp(tag, "work\0\0\0", 7), 0);
    cr_expect_eq(vrig_read(&rig, rig.device + 36, 4), 1, "queues of requests");
    cr_expect_eq(vrig_config_read(&rig, PCI_DEVICE_ID, 2), 0x1040 + VIRTIO_ID_FS);
    cr_expect_eq(fs->features, VERSION_1, "as the server has it");
    vrig_start(&rig, 0);
    vrig_set_status(&rig, 0); /* waits for an answer, so all before has arrived */
    traced("3 1 2 5 13 8 10 9 14 12 13 8 10 9 14 12 11 11 ");
    cr_expect_eq(server.agreed, VERSION_1);
    vrig_unplug(&rig);
    virtio_destroy(fs);
    end_server();
    cr_expect_eq(server.misuse, 0);
}

static void refused(uint64_t features, unsigned at, enum fault fault, const char *why)
{
    unsigned files = fake_open_files();
    int fd = connect_server(features, ~0ULL);
    server.fault_at = at;
    server.fault = fault;
    fake_log();
    cr_expect_lt(create_fs(fd), 0);
    const char *log = fake_log();
    cr_expect_eq(fake_log_lines(log, "dir: cannot"), 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, why), 1, "%s", log);
    end_server();
    cr_expect_eq(fake_open_files(), files);
}

Test(virtio_fs, not_a_server)
{
    refused(PROTOCOL, 0, NONE, "not supported"); /* no version 1 */
    refused(VERSION_1 | PROTOCOL, GET_FEATURES, CLOSE, "closed the connection");
    refused(VERSION_1 | PROTOCOL, GET_PROTOCOL_FEATURES, WRONG_ID, "that is none");
}
