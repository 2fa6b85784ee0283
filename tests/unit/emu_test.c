/*
 * The test server (tests/emulated) as its clients see it: over a socket pair, the server in a
 * thread of its own. Friendly and hostile clients.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/emulated/emu.h"

#define RAM_BASE 0x100000ULL
#define RAM_SIZE 0x20000ULL
#define CAPS     "{\"capabilities\":{\"max_msg_fds\":8,\"write_multiple\":true}}"
#define CAPS_TWIN \
    "{\"capabilities\":{\"max_msg_fds\":8, \"twin_socket\" : {\"supported\" : true}}}"

static struct emu_config config;
static struct emu *emu;
static pthread_t server;
static int client_fd, twin_fd, stop_fd, before;
static uint16_t next_id;
static uint8_t *ram;
static int ram_fd;

/* The last reply. */
static uint8_t payload[1 << 16];
static size_t payload_len;
static int fds[EMU_FDS_MAX];
static unsigned nr_fds;
static unsigned dma_commands;                    /* that the server sent */
static struct vfio_user_header dma_reply_change; /* of replies to them; error: the address */

/* ---- the client ---- */

static int count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void close_fds(void)
{
    for (unsigned i = 0; i < nr_fds; i++)
        close(fds[i]);
    nr_fds = 0;
}

static bool send_raw(int fd, const void *data, size_t len, const int *pass, unsigned n)
{
    char control[CMSG_SPACE(sizeof(int) * 250)] = {0};
    struct iovec iov = {(void *)data, len};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n) {
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(n * sizeof(int));
        *CMSG_FIRSTHDR(&m) =
            (struct cmsghdr){CMSG_LEN(n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), pass, n * sizeof(int));
    }
    return sendmsg(fd, &m, MSG_NOSIGNAL) == (ssize_t)len;
}

static void send_command(uint16_t command, uint32_t flags, const void *data, size_t len,
                         const int *pass, unsigned n)
{
    uint8_t buf[sizeof(struct vfio_user_header) + 4096];
    struct vfio_user_header h = {++next_id, command, (uint32_t)(sizeof(h) + len), flags, 0};

    cr_assert_leq(len, 4096);
    memcpy(buf, &h, sizeof(h));
    if (len)
        memcpy(buf + sizeof(h), data, len);
    send_raw(client_fd, buf, sizeof(h) + len, pass, n);
}

/* Receives LEN bytes; false at the end of the stream. */
static bool recv_all(int fd, void *buf, size_t len)
{
    while (len) {
        char control[CMSG_SPACE(sizeof(int) * EMU_FDS_MAX)];
        struct iovec iov = {buf, len};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);

        if (n <= 0)
            return false;
        if (c) {
            nr_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(c), nr_fds * sizeof(int));
        }
        buf = (char *)buf + n;
        len -= (size_t)n;
    }
    return true;
}

/* A DMA command of the server's, in H and on FD. */
static void answer_dma(int fd, struct vfio_user_header h)
{
    static uint8_t buf[sizeof(h) + sizeof(struct vfio_user_dma_access) + RAM_SIZE];
    struct vfio_user_dma_access a;
    uint8_t *data = buf + sizeof(h) + sizeof(a);
    size_t len = sizeof(h) + sizeof(a);
    bool read = h.command == VFIO_USER_DMA_READ;

    dma_commands++;
    cr_assert(recv_all(fd, &a, sizeof(a)));
    cr_assert(range_within(a.address - RAM_BASE, a.count, RAM_SIZE));
    cr_expect_leq(a.count, VFIO_USER_DEFAULT_DATA_XFER);
    if (read) {
        memcpy(data, ram + (a.address - RAM_BASE), a.count);
        len += a.count;
    } else {
        cr_assert(recv_all(fd, ram + (a.address - RAM_BASE), a.count));
    }
    a.address ^= dma_reply_change.error;
    memcpy(buf + sizeof(h), &a, sizeof(a));
    h.size = (uint32_t)len;
    h.flags = VFIO_USER_REPLY ^ dma_reply_change.flags;
    h.msg_id ^= dma_reply_change.msg_id;
    h.command ^= dma_reply_change.command;
    h.size -= dma_reply_change.size;
    memcpy(buf, &h, sizeof(h));
    send_raw(fd, buf, h.size, NULL, 0);
}

/* The reply to the last command: 0 or its errno, or -1 when the server has hung up. */
static int get_reply(uint16_t command)
{
    close_fds();
    for (;;) {
        struct pollfd p[] = {{client_fd, POLLIN, 0}, {twin_fd, POLLIN, 0}};
        struct vfio_user_header h;

        cr_assert_gt(poll(p, 2, -1), 0);
        int fd = (p[1].revents & POLLIN) ? twin_fd : client_fd;
        if (!recv_all(fd, &h, sizeof(h)))
            return -1;
        if ((h.flags & VFIO_USER_TYPE) == VFIO_USER_REQUEST) {
            cr_assert(h.command == VFIO_USER_DMA_READ || h.command == VFIO_USER_DMA_WRITE);
            answer_dma(fd, h);
            continue;
        }
        cr_expect_eq(fd, client_fd);
        cr_expect_eq(h.msg_id, next_id);
        cr_expect_eq(h.command, command);
        payload_len = h.size - sizeof(h);
        cr_assert_leq(payload_len, sizeof(payload));
        cr_assert(recv_all(fd, payload, payload_len));
        if (!(h.flags & VFIO_USER_ERROR))
            return 0;
        cr_expect_eq(payload_len, 0);
        return (int)h.error;
    }
}

static int call_fds(uint16_t command, const void *data, size_t len, const int *pass, unsigned n)
{
    send_command(command, 0, data, len, pass, n);
    return get_reply(command);
}

static int call(uint16_t command, const void *data, size_t len)
{
    return call_fds(command, data, len, NULL, 0);
}

static int say_version(uint16_t major, const char *json)
{
    uint8_t buf[512] = {0};
    struct vfio_user_version v = {major, 0};

    memcpy(buf, &v, sizeof(v));
    memcpy(buf + sizeof(v), json, strlen(json));
    return call(VFIO_USER_VERSION, buf, sizeof(v) + strlen(json) + 1);
}

static void *serve(void *unused)
{
    int err = emu_serve(emu);

    (void)unused;
    shutdown(emu->fd, SHUT_RDWR); /* the client waits for something */
    return (void *)(intptr_t)err;
}

static void start(const struct emu_device *device)
{
    int pair[2];

    signal(SIGPIPE, SIG_IGN);
    alarm(60); /* nothing here waits longer, unless it waits forever */
    before = count_fds();
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    client_fd = pair[0];
    twin_fd = -1;
    stop_fd = eventfd(0, EFD_CLOEXEC);
    ram_fd = memfd_create("ram", MFD_CLOEXEC);
    cr_assert_eq(ftruncate(ram_fd, RAM_SIZE), 0);
    ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
    cr_assert_eq(emu_create(&emu, device, &config, pair[1], stop_fd), 0);
    cr_assert_eq(pthread_create(&server, NULL, serve, NULL), 0);
}

/* Leaves; the server must have ended, or end now, with RESULT, and keep nothing. */
static void finish(int result)
{
    void *ret;
    int pair_end = emu->fd;

    close(client_fd);
    pthread_join(server, &ret);
    cr_expect_eq((intptr_t)ret, result, "ended with %ld", (long)(intptr_t)ret);
    emu_destroy(emu);
    close(pair_end);
    close(stop_fd);
    if (twin_fd >= 0)
        close(twin_fd);
    close_fds();
    munmap(ram, RAM_SIZE);
    close(ram_fd);
    cr_expect_eq(count_fds(), before, "descriptors left");
}

static void start_and_negotiate(const struct emu_device *device, const char *caps)
{
    start(device);
    cr_assert_eq(say_version(0, caps), 0);
    if (nr_fds) {
        twin_fd = fds[0];
        nr_fds = 0;
    }
}

static uint64_t read_reg(uint32_t region, uint64_t offset, uint32_t size)
{
    struct vfio_user_region_access a = {offset, region, size};

    cr_assert_eq(call(VFIO_USER_REGION_READ, &a, sizeof(a)), 0);
    cr_assert_eq(payload_len, sizeof(a) + size);
    return get_le(payload + sizeof(a), size);
}

static int write_reg(uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    struct {
        struct vfio_user_region_access a;
        uint64_t value;
    } w = {{offset, region, size}, value};

    return call(VFIO_USER_REGION_WRITE, &w, sizeof(w.a) + size);
}

static int map_ram(uint64_t addr, uint64_t size, uint32_t flags, bool with_fd)
{
    struct vfio_user_dma_map m = {sizeof(m), flags, 0, addr, size};

    return call_fds(VFIO_USER_DMA_MAP, &m, sizeof(m), &ram_fd, with_fd);
}

static int set_irqs(uint32_t flags, uint32_t index, uint32_t first, uint32_t count,
                    const int *pass, unsigned n)
{
    struct vfio_irq_set s = {sizeof(s), flags, index, first, count};

    return call_fds(VFIO_USER_DEVICE_SET_IRQS, &s, sizeof(s), pass, n);
}

#define TRIGGER_FD   (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER)
#define UNMASK_FD    (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK)
#define UNMASK       (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK)
#define MASK         (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK)
#define TRIGGER_NONE (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER)

/* How often FD has been signalled since the last time. */
static uint64_t taken(int fd)
{
    eventfd_t value = 0;

    fcntl(fd, F_SETFL, O_NONBLOCK);
    eventfd_read(fd, &value);
    return value;
}

/* For what the server does after an eventfd: it has done it when it answers the next command,
 * or the one after that. */
static void settle(void)
{
    read_reg(0, 0, 4);
    read_reg(0, 0, 4);
}

static void defaults(void)
{
    config = (struct emu_config){
        .fds = 8, .xfer = 65536, .automask = 1, .mmap = 1, .twin = 1, .vram = 16 * MIB};
}

TestSuite(emu, .init = defaults);

/* ---- session ---- */

Test(emu, version)
{
    start(&emu_platform);
    cr_assert_eq(say_version(0, CAPS), 0);
    cr_expect_eq(payload[0] | payload[1] | payload[2] | payload[3], 0);
    cr_expect_eq(payload[payload_len - 1], 0);
    const char *json = (const char *)payload + 4;
    cr_expect(strstr(json, "\"max_msg_fds\":8,"));
    cr_expect(strstr(json, "\"max_data_xfer_size\":65536,"));
    cr_expect(strstr(json, "\"max_dma_maps\":128,"));
    cr_expect(strstr(json, "\"pgsizes\":4096"));
    cr_expect(strstr(json, "\"write_multiple\":true"));
    cr_expect(strstr(json, "\"compatible\":\"minivmm,emu-platform\""));
    cr_expect_null(strstr(json, "twin_socket"), "not offered");
    cr_expect_eq(say_version(0, CAPS), EINVAL, "once only");
    cr_expect_eq(read_reg(0, 0, 4), 0x70756d65);
    finish(0);
}

Test(emu, version_without_capabilities)
{
    struct vfio_user_version v = {0, 5};

    start(&emu_gpu);
    cr_assert_eq(call(VFIO_USER_VERSION, &v, sizeof(v)), 0);
    cr_expect_eq(payload[2], 0, "the minor version of the server");
    cr_expect_null(strstr((const char *)payload + 4, "write_multiple"));
    cr_expect_eq(emu->peer_fds, 1);
    cr_expect_eq(emu->peer_xfer, 65536, "at most what the server takes");
    finish(0);
}

Test(emu, version_refused)
{
    static const struct {
        const char *json;
        uint16_t major;
    } bad[] = {{CAPS, 1}, {"{\"capabilities\":{\"max_data_xfer_size\":0}}", 0}};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        start(&emu_platform);
        cr_expect_eq(say_version(bad[i].major, bad[i].json), EINVAL);
        finish(-EPROTO);
    }
    start(&emu_platform);
    cr_expect_eq(call(VFIO_USER_VERSION, "\0\0\0\0no end", 10), EINVAL);
    finish(-EPROTO);
    start(&emu_platform);
    cr_expect_eq(call(VFIO_USER_DEVICE_RESET, NULL, 0), EINVAL, "not the first thing to say");
    finish(-EPROTO);
}

Test(emu, session_is_ended_from_outside)
{
    start_and_negotiate(&emu_platform, CAPS);
    eventfd_write(stop_fd, 1);
    finish(-ECANCELED);
}

/* A client that stops in the middle of a message does not keep the server. */
Test(emu, session_is_ended_in_a_message)
{
    start_and_negotiate(&emu_platform, CAPS);
    send_raw(client_fd, "\1\0\4", 3, NULL, 0);
    eventfd_write(stop_fd, 1);
    finish(-ECANCELED);
}

Test(emu, client_leaves_in_a_message)
{
    start_and_negotiate(&emu_platform, CAPS);
    send_raw(client_fd, "\1\0\4", 3, NULL, 0);
    finish(0);
}

/* ---- what the devices declare ---- */

Test(emu, tables_are_consistent)
{
    static const struct emu_device *const all[] = {&emu_platform, &emu_gpu, &emu_example};

    for (size_t d = 0; d < ARRAY_SIZE(all); d++) {
        cr_expect_leq(all[d]->regions, EMU_REGIONS_MAX);
        cr_expect_leq(all[d]->irqs, EMU_IRQS_MAX);
        for (unsigned i = 0; i < all[d]->regions; i++) {
            const struct emu_region *r = &all[d]->region[i];
            uint8_t *used = calloc(1, r->size + 1);

            for (unsigned n = 0; n < r->areas; n++) {
                cr_assert(range_within(r->area[n].offset, r->area[n].size, r->size));
                if (r->area[n].kind == EMU_MAPPABLE)
                    cr_expect_eq((r->area[n].offset | r->area[n].size) & 0xfff, 0);
                memset(used + r->area[n].offset, 1, r->area[n].size);
            }
            for (unsigned n = 0; n < r->regs; n++) {
                const struct emu_reg *reg = &r->reg[n];

                cr_assert(range_within(reg->offset, reg->width, r->size));
                cr_expect(is_pow2(reg->width) && reg->width <= 8);
                for (unsigned b = 0; b < reg->width; b++)
                    cr_expect_eq(used[reg->offset + b]++, 0, "%s", reg->name);
                cr_expect_eq(reg->rw & reg->w1c, 0, "%s", reg->name);
                cr_expect(!reg->doorbell || reg->on_write, "%s", reg->name);
            }
            free(used);
        }
    }
}

Test(emu, info)
{
    uint32_t req[4] = {16}, want[4] = {16, VFIO_DEVICE_FLAGS_PLATFORM | 1, 2, 1};

    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(call(VFIO_USER_DEVICE_GET_INFO, req, sizeof(req)), 0);
    cr_assert_eq(payload_len, sizeof(want));
    cr_expect_arr_eq(payload, want, sizeof(want));
    req[0] = 15;
    cr_expect_eq(call(VFIO_USER_DEVICE_GET_INFO, req, sizeof(req)), EINVAL);
    cr_expect_eq(call(VFIO_USER_DEVICE_GET_INFO, req, 12), EINVAL);
    finish(0);
}

static int region_info(uint32_t argsz, uint32_t index, struct vfio_region_info *info)
{
    *info = (struct vfio_region_info){.argsz = argsz, .index = index};
    int err = call(VFIO_USER_DEVICE_GET_REGION_INFO, info, sizeof(*info));
    if (!err)
        memcpy(info, payload, sizeof(*info));
    return err;
}

Test(emu, region_info_memory)
{
    struct vfio_region_info info;

    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(region_info(32, 0, &info), 0);
    cr_expect_eq(info.size, 0x1000);
    cr_expect_eq(info.flags, EMU_RW, "trapped");
    cr_expect_eq(nr_fds, 0);
    cr_assert_eq(region_info(32, 1, &info), 0);
    cr_expect_eq(info.size, 0x10000);
    cr_expect_eq(info.flags, EMU_RW | VFIO_REGION_INFO_FLAG_MMAP);
    cr_assert_eq(nr_fds, 1);
    uint8_t *mem = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    cr_assert_neq(mem, MAP_FAILED);
    cr_expect_eq(ftruncate(fds[0], 0), -1, "the server would fall over it");
    mem[0xfffc] = 0xa5;
    cr_expect_eq(read_reg(1, 0xfffc, 4), 0xa5);
    write_reg(1, 8, 8, 0x1122334455667788);
    cr_expect_eq(get_le64(mem + 8), 0x1122334455667788);
    munmap(mem, 0x10000);
    cr_expect_eq(region_info(31, 0, &info), EINVAL);
    cr_expect_eq(region_info(32, 2, &info), EINVAL);
    cr_expect_eq(region_info(32, UINT32_MAX, &info), EINVAL);
    finish(0);
}

/* Capabilities come when there is room for them; the descriptor always. */
Test(emu, region_info_sparse)
{
    struct vfio_region_info info;
    struct vfio_region_info_cap_sparse_mmap cap;
    struct vfio_region_sparse_mmap_area area;

    start_and_negotiate(&emu_gpu, CAPS);
    cr_assert_eq(region_info(32, 0, &info), 0);
    cr_expect_eq(info.argsz, 32 + 16 + 4 * 16);
    cr_expect_eq(info.cap_offset, 0);
    cr_expect_eq(payload_len, 32);
    cr_expect_eq(nr_fds, 1);
    cr_assert_eq(region_info(info.argsz, 0, &info), 0);
    cr_expect_eq(info.flags, EMU_RW | VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS);
    cr_expect_eq(info.cap_offset, 32);
    cr_assert_eq(payload_len, info.argsz);
    memcpy(&cap, payload + 32, sizeof(cap));
    cr_expect_eq(cap.header.id, VFIO_REGION_INFO_CAP_SPARSE_MMAP);
    cr_expect_eq(cap.header.version, 1);
    cr_expect_eq(cap.header.next, 0);
    cr_assert_eq(cap.nr_areas, 4);
    for (unsigned i = 0; i < 4; i++) {
        static const uint64_t trapped[] = {0, 0x88000, 0xb90000, 0xb91000, 0xbb0000};

        memcpy(&area, payload + 48 + i * sizeof(area), sizeof(area));
        cr_expect(range_within(area.offset, area.size, 16 * MIB));
        for (unsigned t = 0; t < ARRAY_SIZE(trapped); t++)
            cr_expect_geq(trapped[t] - area.offset, area.size, "%#lx", (long)trapped[t]);
    }
    cr_assert_eq(region_info(32, 2, &info), 0);
    cr_expect_eq(info.size, 0, "the second half of BAR1");
    cr_expect_eq(info.flags, 0);
    cr_assert_eq(region_info(32, 6, &info), 0);
    cr_expect_eq(info.flags, VFIO_REGION_INFO_FLAG_READ);
    finish(0);
}

Test(emu, region_info_without_mmap)
{
    struct vfio_region_info info;

    config.mmap = 0;
    start_and_negotiate(&emu_gpu, CAPS);
    for (uint32_t i = 0; i < 2; i++) {
        cr_assert_eq(region_info(4096, i, &info), 0);
        cr_expect_eq(info.flags, EMU_RW);
        cr_expect_eq(nr_fds, 0);
    }
    finish(0);
    config.mmap = 1;
    start_and_negotiate(&emu_gpu, "{\"capabilities\":{\"max_msg_fds\":0}}");
    cr_assert_eq(region_info(4096, 1, &info), 0);
    cr_expect_eq(info.flags, EMU_RW, "a client that takes no descriptors");
    finish(0);
}

/* ---- accesses ---- */

Test(emu, registers)
{
    start_and_negotiate(&emu_platform, CAPS);
    write_reg(0, 8, 4, 0x12345678);
    cr_expect_eq(read_reg(0, 8, 4), 0x12345678);
    write_reg(0, 9, 1, 0xaa);
    write_reg(0, 10, 2, 0xbbcc);
    cr_expect_eq(read_reg(0, 8, 4), 0xbbccaa78, "parts");
    cr_expect_eq(read_reg(0, 10, 4), 0xbbcc, "across two registers");
    write_reg(0, 0, 8, UINT64_MAX);
    cr_expect_eq(read_reg(0, 0, 8), 0x170756d65, "read-only");
    write_reg(0, 0x800, 4, 7);
    cr_expect_eq(read_reg(0, 0x800, 4), 0, "nothing there");
    write_reg(0, 0x20, 8, 0x1122334455667788);
    cr_expect_eq(read_reg(0, 0x24, 4), 0x11223344);
    cr_expect_eq(call(VFIO_USER_DEVICE_RESET, NULL, 0), 0);
    cr_expect_eq(read_reg(0, 8, 4), 0);
    finish(0);
}

Test(emu, accesses_out_of_bounds)
{
    struct vfio_user_region_access bad[] = {
        {0x1000, 0, 1},         {0xffd, 0, 4}, {UINT64_MAX, 0, 1},
        {UINT64_MAX - 3, 0, 8}, {0, 2, 4},     {0, 8, 4},
        {0, UINT32_MAX, 4},     {0, 1, 65537}, {0, 1, UINT32_MAX}};
    struct vfio_user_region_access few[2] = {{0, 1, 8}}; /* and not 8 bytes behind it */

    start_and_negotiate(&emu_platform, CAPS);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        cr_expect_eq(call(VFIO_USER_REGION_READ, &bad[i], sizeof(bad[i])), EINVAL, "%zu", i);
        cr_expect_eq(write_reg(bad[i].region, bad[i].offset, MIN(bad[i].count, 8), 0),
                     bad[i].count > 8 ? 0 : EINVAL, "%zu", i);
    }
    cr_expect_eq(read_reg(1, 0, 65536 - 16) & 0, 0, "much at a time");
    cr_expect_eq(write_reg(0, 0x1000, 0, 0), 0, "nothing at the end");
    cr_expect_eq(call(VFIO_USER_REGION_WRITE, &few, sizeof(few[0]) + 7), EINVAL);
    cr_expect_eq(call(VFIO_USER_REGION_WRITE, &few, sizeof(few[0]) + 9), EINVAL);
    finish(0);
}

Test(emu, write_multi)
{
    struct {
        uint64_t n;
        struct vfio_user_write_multi w[3];
    } m = {3, {{8, 0, 4, 0x11111111}, {0, 1, 8, 0x2222222222222222}, {9, 0, 1, 0x33}}};

    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(call(VFIO_USER_REGION_WRITE_MULTI, &m, sizeof(m)), 0);
    cr_expect_eq(get_le64(payload), 3);
    cr_expect_eq(read_reg(0, 8, 4), 0x11113311);
    cr_expect_eq(read_reg(1, 0, 8), 0x2222222222222222);
    cr_expect_eq(call(VFIO_USER_REGION_WRITE_MULTI, &m, sizeof(m) - 1), EINVAL);
    m.w[2].count = 9;
    cr_expect_eq(call(VFIO_USER_REGION_WRITE_MULTI, &m, sizeof(m)), EINVAL);
    m.n = UINT64_MAX / 24 + 3;
    cr_expect_eq(call(VFIO_USER_REGION_WRITE_MULTI, &m, sizeof(m)), EINVAL);
    finish(0);
}

Test(emu, no_reply)
{
    struct {
        struct vfio_user_region_access a;
        uint32_t value;
    } w = {{8, 0, 4}, 5};

    start_and_negotiate(&emu_platform, CAPS);
    send_command(VFIO_USER_REGION_WRITE, VFIO_USER_NO_REPLY, &w, 20, NULL, 0);
    w.a.offset = UINT64_MAX;
    send_command(VFIO_USER_REGION_WRITE, VFIO_USER_NO_REPLY, &w, 20, NULL, 0);
    cr_expect_eq(read_reg(0, 8, 4), 5, "the next reply is this one's");
    finish(0);
}

/* ---- DMA ---- */

enum { SRC = 0x20, DST = 0x28, LEN = 0x30, FILL = 0x34, CMD = 0x38, DMA_STATUS = 0x3c };

static uint64_t dma(uint32_t cmd, uint64_t src, uint64_t dst, uint32_t len)
{
    write_reg(0, SRC, 8, src);
    write_reg(0, DST, 8, dst);
    write_reg(0, LEN, 4, len);
    write_reg(0, FILL, 4, 0x5a);
    cr_assert_eq(write_reg(0, CMD, 4, cmd), 0);
    return read_reg(0, DMA_STATUS, 4);
}

static void check_dma(void)
{
    for (unsigned i = 0; i < 0x11000; i++)
        ram[i] = (uint8_t)(i * 7 + (i >> 8));
    cr_expect_eq(dma(1, RAM_BASE + 3, RAM_BASE + RAM_SIZE - 0xff01, 0xff01), 1, "to the end");
    cr_expect_arr_eq(ram + RAM_SIZE - 0xff01, ram + 3, 0xff01);
    cr_expect_eq(dma(2, 0, RAM_BASE + RAM_SIZE - 16, 16), 1);
    cr_expect_eq(get_le64(ram + RAM_SIZE - 8), 0x5a5a5a5a5a5a5a5a);
    cr_expect_neq(ram[RAM_SIZE - 17], 0x5a);
    cr_expect_eq(dma(3, RAM_BASE, RAM_BASE, 16), 2, "no such command");
    cr_expect_eq(dma(1, RAM_BASE, RAM_BASE, 0), 3);
    cr_expect_eq(dma(1, RAM_BASE, RAM_BASE, UINT32_MAX), 3);
    cr_expect_eq(dma(1, RAM_BASE - 1, RAM_BASE, 16), 4);
    cr_expect_eq(dma(1, RAM_BASE + RAM_SIZE - 8, RAM_BASE, 16), 4);
    cr_expect_eq(dma(1, UINT64_MAX - 7, RAM_BASE, 16), 4);
    cr_expect_eq(dma(1, RAM_BASE, RAM_BASE + RAM_SIZE, 1), 5);
    cr_expect_eq(dma(2, RAM_BASE, UINT64_MAX - 7, 16), 5);
}

Test(emu, dma_direct)
{
    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, true), 0);
    check_dma();
    cr_expect_eq(dma_commands, 0);
    finish(0);
}

Test(emu, dma_by_message)
{
    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, false), 0);
    check_dma();
    cr_expect_eq(dma_commands, 5);
    finish(0);
    config.message = 1;
    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, true), 0);
    check_dma();
    cr_expect_eq(dma_commands, 10, "although it has a descriptor");
    finish(0);
}

Test(emu, dma_by_twin_socket)
{
    start_and_negotiate(&emu_platform, CAPS_TWIN);
    cr_assert_geq(twin_fd, 0);
    cr_expect(strstr((const char *)payload + 4, "{\"supported\":true,\"fd_index\":0}"));
    cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, false), 0);
    check_dma();
    cr_expect_eq(dma_commands, 5);
    finish(0);
    config.twin = 0;
    start_and_negotiate(&emu_platform, CAPS_TWIN);
    cr_expect_lt(twin_fd, 0);
    finish(0);
}

Test(emu, dma_in_pieces_the_client_takes)
{
    start_and_negotiate(&emu_platform, "{\"capabilities\":{\"max_data_xfer_size\":4096}}");
    cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, false), 0);
    cr_expect_eq(dma(1, RAM_BASE, RAM_BASE + 0x8000, 0x1801), 1);
    cr_expect_eq(dma_commands, 4);
    finish(0);
}

Test(emu, dma_only_as_mapped)
{
    for (unsigned with_fd = 0; with_fd < 2; with_fd++) {
        start_and_negotiate(&emu_platform, CAPS);
        cr_assert_eq(map_ram(RAM_BASE, 0x1000, 1, with_fd), 0);
        cr_assert_eq(map_ram(RAM_BASE + 0x1000, 0x1000, 2, with_fd), 0);
        cr_assert_eq(map_ram(RAM_BASE + 0x2000, 0x1000, 0, with_fd), 0);
        cr_expect_eq(dma(1, RAM_BASE, RAM_BASE + 0x1000, 16), 1);
        cr_expect_eq(dma(1, RAM_BASE, RAM_BASE + 0x800, 16), 5);
        cr_expect_eq(dma(1, RAM_BASE + 0x1000, RAM_BASE + 0x1800, 16), 4);
        cr_expect_eq(dma(1, RAM_BASE + 0x2000, RAM_BASE + 0x1800, 16), 4);
        finish(0);
    }
}

Test(emu, dma_to_a_file_that_shrank)
{
    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, true), 0);
    cr_assert_eq(ftruncate(ram_fd, 0x1000), 0);
    cr_expect_eq(dma(2, 0, RAM_BASE + 0x1000, 16), 5, "an error, no SIGBUS");
    cr_expect_eq(dma(2, 0, RAM_BASE, 16), 1);
    finish(0);
}

Test(emu, dma_map_checks)
{
    struct vfio_user_dma_unmap u = {sizeof(u), 0, RAM_BASE, RAM_SIZE};
    struct vfio_user_dma_map m = {sizeof(m), 3, 0, RAM_BASE, RAM_SIZE};
    int two[] = {ram_fd, ram_fd};

    start_and_negotiate(&emu_platform, CAPS);
    two[0] = two[1] = ram_fd;
    cr_expect_eq(call_fds(VFIO_USER_DMA_MAP, &m, sizeof(m), two, 2), EINVAL);
    cr_expect_eq(map_ram(RAM_BASE, RAM_SIZE + 0x1000, 3, true), EINVAL, "not in the file");
    cr_expect_eq(map_ram(RAM_BASE, 0, 3, true), EINVAL);
    cr_expect_eq(map_ram(RAM_BASE + 1, 0x1000, 3, true), EINVAL);
    cr_expect_eq(map_ram(RAM_BASE, 0x1001, 3, true), EINVAL);
    cr_expect_eq(map_ram(RAM_BASE, 0x1000, 4, true), EINVAL);
    cr_expect_eq(map_ram(UINT64_MAX - 0xfff, 0x1000, 3, false), EINVAL, "wraps");
    m.offset = UINT64_MAX - 0xfff;
    cr_expect_eq(call_fds(VFIO_USER_DMA_MAP, &m, sizeof(m), two, 1), EINVAL);
    cr_expect_eq(map_ram(RAM_BASE, RAM_SIZE, 3, true), 0);
    cr_expect_eq(map_ram(RAM_BASE, RAM_SIZE, 3, true), EEXIST);
    cr_expect_eq(map_ram(RAM_BASE - 0x1000, 0x2000, 3, true), EEXIST);
    cr_expect_eq(map_ram(RAM_BASE + RAM_SIZE - 0x1000, 0x2000, 3, true), EEXIST);
    cr_expect_eq(map_ram(RAM_BASE + RAM_SIZE, 0x1000, 3, true), 0);
    u.size -= 0x1000;
    cr_expect_eq(call(VFIO_USER_DMA_UNMAP, &u, sizeof(u)), ENOENT, "not exactly");
    u.size += 0x1000;
    cr_expect_eq(call(VFIO_USER_DMA_UNMAP, &u, sizeof(u)), 0);
    cr_expect_eq(payload_len, sizeof(u));
    cr_expect_arr_eq(payload, &u, sizeof(u));
    cr_expect_eq(call(VFIO_USER_DMA_UNMAP, &u, sizeof(u)), ENOENT);
    cr_expect_eq(dma(2, 0, RAM_BASE, 16), 5, "unmapped");
    for (unsigned i = 1; i < EMU_MAPS_MAX; i++)
        cr_expect_eq(map_ram(RAM_BASE + RAM_SIZE + i * 0x1000, 0x1000, 3, true), 0);
    cr_expect_eq(map_ram(0, 0x1000, 3, true), ENOSPC);
    finish(0);
}

/* Commands that the client sends while the server waits for a reply of it come later. */
Test(emu, dma_with_commands_in_between)
{
    struct vfio_user_region_access a = {8, 0, 4};
    struct {
        struct vfio_user_region_access a;
        uint32_t value;
    } w = {{CMD, 0, 4}, 2};

    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, false), 0);
    write_reg(0, 8, 4, 77);
    dma(3, 0, RAM_BASE, 16);
    send_command(VFIO_USER_REGION_WRITE, 0, &w, 20, NULL, 0);
    send_command(VFIO_USER_REGION_READ, 0, &a, sizeof(a), NULL, 0);
    next_id--;
    cr_assert_eq(get_reply(VFIO_USER_REGION_WRITE), 0);
    next_id++;
    cr_assert_eq(get_reply(VFIO_USER_REGION_READ), 0);
    cr_expect_eq(get_le32(payload + sizeof(a)), 77);
    cr_expect_eq(dma_commands, 1);
    finish(0);
}

/* What a client can answer to DMA_READ and DMA_WRITE that ends its session. */
Test(emu, dma_replies_wrong)
{
    static const struct vfio_user_header change[] = {
        {.msg_id = 1}, {.command = 7}, {.size = 10}, {.error = 8}, {.size = 16}, {.flags = 2}};

    for (size_t i = 0; i < ARRAY_SIZE(change); i++) {
        for (uint32_t cmd = 1; cmd <= 2; cmd++) {
            start_and_negotiate(&emu_platform, CAPS);
            cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, false), 0);
            dma(3, RAM_BASE, RAM_BASE, 16);
            dma_reply_change = change[i];
            cr_expect_eq(write_reg(0, CMD, 4, cmd), -1, "%zu", i);
            dma_reply_change = (struct vfio_user_header){0};
            finish(-EPROTO);
        }
    }
}

Test(emu, dma_refused)
{
    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, false), 0);
    dma_reply_change.flags = VFIO_USER_ERROR;
    cr_expect_eq(dma(1, RAM_BASE, RAM_BASE, 16), 4);
    dma_reply_change.flags = 0;
    cr_expect_eq(dma(1, RAM_BASE, RAM_BASE, 16), 1, "and life goes on");
    finish(0);
}

/* ---- interrupts ---- */

enum { STATUS = 0x0c, ENABLE = 0x10, PENDING = 0x14, RAISE = 0x18, COUNT = 0x1c };

Test(emu, level_interrupt)
{
    int trigger = eventfd(0, EFD_CLOEXEC), unmask = eventfd(0, EFD_CLOEXEC);
    uint32_t req[4] = {16, 0, 0, 0};

    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(call(VFIO_USER_DEVICE_GET_IRQ_INFO, req, sizeof(req)), 0);
    cr_expect_eq(get_le32(payload + 4), EMU_LEVEL);
    cr_expect_eq(get_le32(payload + 12), 1);
    cr_assert_eq(set_irqs(TRIGGER_FD, 0, 0, 1, &trigger, 1), 0);
    cr_assert_eq(set_irqs(UNMASK_FD, 0, 0, 1, &unmask, 1), 0);
    write_reg(0, RAISE, 4, 3);
    cr_expect_eq(read_reg(0, PENDING, 4), 1);
    cr_expect_eq(taken(trigger), 0, "not enabled");
    write_reg(0, ENABLE, 4, 1);
    cr_expect_eq(read_reg(0, STATUS, 4), 1);
    cr_expect_eq(taken(trigger), 1);
    write_reg(0, PENDING, 4, 1);
    cr_expect_eq(taken(trigger), 0, "masks itself");
    eventfd_write(unmask, 1);
    settle();
    cr_expect_eq(taken(trigger), 1, "the second");
    eventfd_write(unmask, 1);
    settle();
    cr_expect_eq(taken(trigger), 1, "the second again: nobody acknowledged it");
    write_reg(0, PENDING, 4, 1);
    cr_expect_eq(set_irqs(UNMASK, 0, 0, 1, NULL, 0), 0);
    cr_expect_eq(taken(trigger), 1, "the third");
    cr_expect_eq(read_reg(0, COUNT, 4), 3);
    cr_expect_eq(read_reg(0, RAISE, 4), 0);
    write_reg(0, PENDING, 4, 1);
    cr_expect_eq(set_irqs(UNMASK, 0, 0, 1, NULL, 0), 0);
    cr_expect_eq(taken(trigger), 0);
    cr_expect_eq(read_reg(0, STATUS, 4), 0);
    cr_expect_eq(set_irqs(MASK, 0, 0, 1, NULL, 0), 0);
    write_reg(0, RAISE, 4, 1);
    cr_expect_eq(taken(trigger), 0);
    cr_expect_eq(set_irqs(UNMASK, 0, 0, 1, NULL, 0), 0);
    cr_expect_eq(taken(trigger), 1);
    close(trigger);
    close(unmask);
    before -= 2;
    finish(0);
}

/* As libvfio-user: no flags, an event for each time the line rises, masking has no effect. */
Test(emu, level_interrupt_without_automask)
{
    int trigger = eventfd(0, EFD_CLOEXEC);
    uint32_t req[4] = {16, 0, 0, 0};

    config.automask = 0;
    start_and_negotiate(&emu_platform, CAPS);
    cr_assert_eq(call(VFIO_USER_DEVICE_GET_IRQ_INFO, req, sizeof(req)), 0);
    cr_expect_eq(get_le32(payload + 4), VFIO_IRQ_INFO_EVENTFD);
    cr_assert_eq(set_irqs(TRIGGER_FD, 0, 0, 1, &trigger, 1), 0);
    cr_expect_eq(set_irqs(MASK, 0, 0, 1, NULL, 0), 0);
    write_reg(0, ENABLE, 4, 3);
    write_reg(0, RAISE, 4, 2);
    cr_expect_eq(taken(trigger), 1);
    write_reg(0, PENDING, 4, 1);
    cr_expect_eq(taken(trigger), 1);
    write_reg(0, CMD, 4, 9);
    cr_expect_eq(taken(trigger), 0, "the line is high already");
    write_reg(0, PENDING, 4, 3);
    cr_expect_eq(taken(trigger), 0);
    close(trigger);
    before--;
    finish(0);
}

Test(emu, set_irqs_checks)
{
    static const struct {
        uint32_t flags, index, start, count;
        unsigned fds;
    } bad[] = {
        {0, 0, 0, 1, 0},
        {TRIGGER_FD | VFIO_IRQ_SET_DATA_NONE, 0, 0, 1, 1},
        {TRIGGER_FD | VFIO_IRQ_SET_ACTION_MASK, 0, 0, 1, 1},
        {TRIGGER_FD | 0x40, 0, 0, 1, 1},
        {TRIGGER_FD, 5, 0, 1, 1},
        {TRIGGER_FD, UINT32_MAX, 0, 1, 1},
        {TRIGGER_FD, 2, 63, 2, 2},
        {TRIGGER_FD, 2, 65, 1, 1},
        {TRIGGER_FD, 2, UINT32_MAX, 2, 2},
        {TRIGGER_FD, 2, 0, 2, 1},
        {TRIGGER_FD, 2, 0, 1, 2},
        {TRIGGER_FD, 2, 0, 9, 9}, /* more than max_msg_fds */
        {TRIGGER_FD, 2, 0, 8, 9},
        {TRIGGER_FD, 2, 0, 0, 0},
        {TRIGGER_NONE, 2, 1, 0, 0},
        {MASK, 2, 0, 1, 0}, /* not maskable */
        {MASK, 0, 0, 0, 0},
        {VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_MASK, 0, 0, 1, 1},
        {VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, 1, 0}, /* no data */
    };
    struct vfio_irq_set s = {21, TRIGGER_NONE, 0, 0, 1};
    int pass[16];

    start_and_negotiate(&emu_gpu, CAPS);
    for (unsigned i = 0; i < 16; i++)
        pass[i] = ram_fd;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        cr_expect_eq(
            set_irqs(bad[i].flags, bad[i].index, bad[i].start, bad[i].count, pass, bad[i].fds),
            EINVAL, "%zu", i);
    cr_expect_eq(call(VFIO_USER_DEVICE_SET_IRQS, &s, sizeof(s)), EINVAL, "argsz");
    cr_expect_eq(call(VFIO_USER_DEVICE_SET_IRQS, &s, 16), EINVAL);
    finish(0);
}

/* Not every file is an eventfd; a client may give any. */
Test(emu, interrupts_to_strange_files)
{
    int pipes[2], zero = open("/dev/zero", O_RDWR | O_CLOEXEC);

    start_and_negotiate(&emu_platform, CAPS);
    write_reg(0, ENABLE, 4, 1);
    cr_assert_eq(pipe2(pipes, O_CLOEXEC), 0);
    close(pipes[0]);
    cr_expect_eq(set_irqs(TRIGGER_FD, 0, 0, 1, &pipes[1], 1), 0);
    close(pipes[1]);
    write_reg(0, RAISE, 4, 2);
    cr_assert_eq(pipe2(pipes, O_CLOEXEC), 0);
    cr_expect_eq(set_irqs(UNMASK_FD, 0, 0, 1, &pipes[0], 1), 0);
    close(pipes[0]);
    close(pipes[1]);
    settle();
    cr_expect_eq(emu->irq[0].unmask, -1, "given up");
    cr_expect_eq(set_irqs(UNMASK_FD, 0, 0, 1, &zero, 1), 0);
    settle();
    cr_expect_eq(set_irqs(UNMASK_FD, 0, 0, 1, NULL, 0), 0, "taken back");
    cr_expect_eq(emu->irq[0].unmask, -1);
    close(zero);
    before--;
    finish(0);
}

/* ---- gpu ---- */

enum { CONFIG = 7, DOORBELL = 0xbb0000, CH = 0x100 };

static uint64_t cfg(uint64_t offset, uint32_t size)
{
    return read_reg(CONFIG, offset, size);
}

Test(emu, gpu_config_space)
{
    static const struct {
        uint32_t offset, size, want;
    } bars[] = {{0x10, 4, 0xff000000}, {0x14, 4, 0xff00000c}, {0x18, 4, 0xffffffff},
                {0x1c, 4, 0xfe00000c}, {0x20, 4, 0xffffffff}, {0x24, 4, 0xffffff81},
                {0x30, 4, 0xffff0001}};
    unsigned caps = 0;

    start_and_negotiate(&emu_gpu, CAPS);
    cr_expect_eq(cfg(0, 4), 0x67706d76);
    cr_expect_eq(cfg(8, 4) >> 8, 0x030000);
    for (size_t i = 0; i < ARRAY_SIZE(bars); i++) {
        write_reg(CONFIG, bars[i].offset, 4, UINT32_MAX);
        cr_expect_eq(cfg(bars[i].offset, 4), bars[i].want, "%#x: %#lx", bars[i].offset,
                     cfg(bars[i].offset, 4));
    }
    for (uint64_t at = cfg(PCI_CAPABILITY_LIST, 1); at; at = cfg(at + 1, 1))
        caps |= 1U << cfg(at, 1);
    cr_expect_eq(caps, 1U << PCI_CAP_ID_PM | 1U << PCI_CAP_ID_MSI | 1U << PCI_CAP_ID_EXP |
                           1U << PCI_CAP_ID_MSIX);
    cr_expect_eq(cfg(0x100, 4), 0x00010003);
    write_reg(CONFIG, PCI_COMMAND, 4, UINT32_MAX);
    cr_expect_eq(cfg(PCI_COMMAND, 4), 0x00100547);
    cr_expect_eq(read_reg(0, 0x88000, 8), cfg(0, 8), "the mirror");
    cr_expect_eq(read_reg(0, 0x88100, 4), 0x00010003);
    write_reg(0, 0x8803c, 1, 9);
    cr_expect_eq(cfg(PCI_INTERRUPT_LINE, 1), 9);
    write_reg(0, 0x4, 4, 1);
    write_reg(CONFIG, 0x78 + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
    cr_expect_eq(cfg(PCI_COMMAND, 2), 0, "function-level reset");
    cr_expect_eq(read_reg(0, 4, 4), 0);
    cr_expect_eq(cfg(0x78 + PCI_EXP_DEVCTL, 2), 0x2810);
    write_reg(0, 0xb90ffc, 4, 6);
    cr_expect_eq(read_reg(0, 0xb90ffc, 4), 6, "the MSI-X table is memory");
    cr_expect_eq(read_reg(5, 0x10, 4), 0x69756d65);
    finish(0);
}

Test(emu, gpu_bar1_as_large_as_wanted)
{
    struct vfio_region_info info;

    config.vram = 256 * GIB;
    start_and_negotiate(&emu_gpu, CAPS);
    write_reg(CONFIG, 0x14, 8, UINT64_MAX);
    cr_expect_eq(cfg(0x14, 8), 0xffffffc00000000c);
    cr_assert_eq(region_info(32, 1, &info), 0);
    cr_expect_eq(info.size, 256 * GIB);
    write_reg(1, 256 * GIB - 8, 8, 0x1234);
    cr_expect_eq(read_reg(1, 256 * GIB - 8, 8), 0x1234);
    finish(0);
}

Test(emu, gpu_rom)
{
    struct vfio_user_region_access a = {0, 6, 32768};
    uint8_t sum = 0;

    start_and_negotiate(&emu_gpu, CAPS);
    cr_expect_eq(read_reg(6, 0, 2), 0xaa55);
    cr_expect_eq(read_reg(6, read_reg(6, 0x18, 2), 8), 0x67706d7652494350, "PCIR, our numbers");
    for (; a.offset < 65536; a.offset += a.count) {
        cr_assert_eq(call(VFIO_USER_REGION_READ, &a, sizeof(a)), 0);
        for (unsigned i = 0; i < a.count; i++)
            sum = (uint8_t)(sum + payload[sizeof(a) + i]);
    }
    cr_expect_eq(sum, 0);
    cr_expect_eq(write_reg(6, 0, 2, 0), EINVAL);
    finish(0);
}

static uint64_t gpu_copy(unsigned ch, uint64_t src, uint64_t dst, uint32_t len, uint32_t flags,
                         uint32_t vector)
{
    uint64_t base = CH + 0x40 * ch;

    write_reg(0, base, 8, src);
    write_reg(0, base + 8, 8, dst);
    write_reg(0, base + 0x10, 4, len);
    write_reg(0, base + 0x14, 4, flags);
    write_reg(0, base + 0x18, 4, vector);
    write_reg(0, DOORBELL + 4 * ch, 4, 1);
    return read_reg(0, base + 0x1c, 4);
}

Test(emu, gpu_copies)
{
    start_and_negotiate(&emu_gpu, CAPS);
    cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, true), 0);
    memcpy(ram, "over and back again", 20);
    cr_expect_eq(gpu_copy(0, RAM_BASE, 0, 20, 2, 0), 3, "no bus mastering");
    write_reg(CONFIG, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    cr_expect_eq(gpu_copy(0, RAM_BASE, 16 * MIB - 20, 20, 2, 0), 1);
    cr_expect_eq(gpu_copy(1, 16 * MIB - 20, 0, 20, 3, 0), 1);
    cr_expect_eq(gpu_copy(3, 0, RAM_BASE + RAM_SIZE - 20, 20, 1, 0), 1);
    cr_expect_str_eq((char *)ram + RAM_SIZE - 20, "over and back again");
    cr_expect_eq(read_reg(0, 8, 4), 0xb, "a bit for each channel");
    cr_expect_eq(gpu_copy(2, RAM_BASE, 16 * MIB - 19, 20, 2, 0), 5);
    cr_expect_eq(gpu_copy(2, UINT64_MAX, 0, 20, 3, 0), 4);
    cr_expect_eq(gpu_copy(2, 0, 0, 0, 3, 0), 2);
    cr_expect_eq(gpu_copy(2, 0, 0, UINT32_MAX, 3, 0), 2);
    finish(0);
}

Test(emu, gpu_interrupts)
{
    int e[8], none = -1;

    start_and_negotiate(&emu_gpu, CAPS);
    for (unsigned i = 0; i < 8; i++)
        e[i] = eventfd(0, EFD_CLOEXEC);
    cr_assert_eq(set_irqs(TRIGGER_FD, 0, 0, 1, e, 1), 0);
    gpu_copy(1, 0, 0, 4, 3, 0);
    cr_expect_eq(taken(e[0]), 0, "INTx is not enabled");
    write_reg(0, 0xc, 4, 2);
    cr_expect_eq(taken(e[0]), 1);
    cr_expect_eq(cfg(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
    write_reg(CONFIG, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    cr_expect_eq(set_irqs(UNMASK, 0, 0, 1, NULL, 0), 0);
    cr_expect_eq(taken(e[0]), 0, "disabled");
    write_reg(CONFIG, PCI_COMMAND, 2, 0);
    cr_expect_eq(taken(e[0]), 1);
    cr_assert_eq(set_irqs(TRIGGER_NONE, 0, 0, 0, NULL, 0), 0);

    cr_assert_eq(set_irqs(TRIGGER_FD, 1, 0, 4, e, 4), 0);
    gpu_copy(0, 0, 0, 4, 3, 7);
    cr_expect_eq(taken(e[3]), 1, "the lowest bits of a vector that MSI does not have");
    cr_assert_eq(set_irqs(TRIGGER_NONE, 1, 0, 0, &none, 0), 0);

    cr_assert_eq(set_irqs(TRIGGER_FD, 2, 0, 8, e, 8), 0);
    cr_assert_eq(set_irqs(TRIGGER_FD, 2, 56, 8, e, 8), 0);
    gpu_copy(0, 0, 0, 4, 3, 63);
    gpu_copy(0, 0, 0, 4, 3, 7);
    cr_expect_eq(taken(e[7]), 2);
    gpu_copy(0, 0, 0, 4, 3, 9);
    cr_assert_eq(set_irqs(TRIGGER_FD, 2, 7, 1, NULL, 0), 0);
    gpu_copy(0, 0, 0, 4, 3, 7);
    cr_expect_eq(taken(e[7]), 0, "de-assigned");
    uint8_t some[23] = {[20] = 1, [22] = 1};
    struct vfio_irq_set head = {sizeof(some),
                                VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER, 2, 4, 3};
    memcpy(some, &head, sizeof(head));
    cr_assert_eq(call(VFIO_USER_DEVICE_SET_IRQS, some, sizeof(some)), 0);
    cr_expect_eq(taken(e[4]), 1);
    cr_expect_eq(taken(e[5]), 0);
    cr_expect_eq(taken(e[6]), 1);
    cr_assert_eq(set_irqs(TRIGGER_NONE, 2, 4, 1, NULL, 0), 0);
    cr_expect_eq(taken(e[4]), 1);
    for (unsigned i = 0; i < 8; i++)
        close(e[i]);
    finish(0);
}

Test(emu, gpu_as_nvidias)
{
    int e[8], none = -1;

    config.nvidia = 1;
    start_and_negotiate(&emu_gpu, CAPS);
    cr_expect_eq(cfg(0, 4), 0x1b8010de);
    cr_expect_eq(read_reg(6, read_reg(6, 0x18, 2) + 4, 4), 0x1b8010de);
    cr_expect_neq(cfg(PCI_BASE_ADDRESS_0, 4), 0, "the host's addresses");
    for (unsigned i = 0; i < 256; i += 8) {
        cr_expect_eq(read_reg(0, 0x88000 + i, 8), cfg(i, 8));
        cr_expect_eq(read_reg(0, 0x1800 + i, 8), cfg(i, 8));
    }
    cr_expect_eq(read_reg(0, 0x1900, 8), 0);
    write_reg(5, 8, 4, 0x88000 + PCI_BASE_ADDRESS_0);
    cr_expect_eq(read_reg(5, 12, 4), 0, "the window is shut");
    write_reg(5, 0, 4, 1);
    write_reg(5, 4, 4, 1);
    write_reg(5, 8, 4, 0x88000 + PCI_BASE_ADDRESS_0);
    cr_expect_eq(read_reg(5, 12, 4), cfg(PCI_BASE_ADDRESS_0, 4));
    write_reg(5, 8, 4, 0x1800 + PCI_INTERRUPT_LINE);
    write_reg(5, 12, 4, 7);
    cr_expect_eq(cfg(PCI_INTERRUPT_LINE, 1), 7);
    write_reg(5, 8, 4, 0x1000000);
    cr_expect_eq(read_reg(5, 12, 4), UINT32_MAX, "beyond BAR0");
    for (unsigned i = 0; i < 8; i++)
        e[i] = eventfd(0, EFD_CLOEXEC);
    cr_assert_eq(set_irqs(TRIGGER_FD, 1, 0, 8, e, 8), 0);
    gpu_copy(0, 0, 0, 4, 3, 2);
    gpu_copy(0, 0, 0, 4, 3, 5);
    gpu_copy(0, 0, 0, 4, 3, 3);
    cr_expect_eq(taken(e[2]), 1);
    cr_expect_eq(taken(e[3]) + taken(e[5]), 0, "the first is not acknowledged");
    write_reg(0, 0x8806a, 1, 0xff);
    cr_expect_eq(taken(e[3]), 0, "not there");
    write_reg(0, 0x88068, 1, 0xff);
    cr_expect_eq(taken(e[3]), 1);
    cr_expect_eq(taken(e[5]), 0);
    write_reg(0, 0x88068, 1, 0xff);
    cr_expect_eq(taken(e[5]), 1);
    write_reg(0, 0x88068, 1, 0xff);
    gpu_copy(0, 0, 0, 4, 3, 2);
    cr_expect_eq(taken(e[2]), 1);
    cr_assert_eq(set_irqs(TRIGGER_NONE, 1, 0, 0, &none, 0), 0);
    for (unsigned i = 0; i < 8; i++)
        close(e[i]);
    finish(0);
}

Test(emu, gpu_doorbells_by_eventfd)
{
    struct vfio_user_region_io_fds r = {sizeof(r) + 4 * sizeof(struct vfio_user_io_fd), 0, 0,
                                        0};
    struct vfio_user_io_fd entry;

    start_and_negotiate(&emu_gpu, CAPS);
    gpu_copy(2, 0, 0x1000, 4, 3, 0);
    write_reg(1, 0, 4, 0xcafe);
    cr_assert_eq(call(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &r, sizeof(r)), 0);
    cr_assert_eq(payload_len, r.argsz);
    cr_expect_eq(get_le32(payload + 12), 4);
    cr_assert_eq(nr_fds, 4);
    memcpy(&entry, payload + sizeof(r) + 2 * sizeof(entry), sizeof(entry));
    cr_expect_eq(entry.offset, DOORBELL + 8);
    cr_expect_eq(entry.size, 4);
    cr_expect_eq(entry.type, VFIO_USER_IO_FD_IOEVENTFD);
    cr_assert_eq(entry.fd_index, 2);
    write_reg(CONFIG, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    cr_assert_eq(call(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &r, sizeof(r)), 0);
    eventfd_write(fds[2], 1);
    settle();
    cr_expect_eq(read_reg(1, 0x1000, 4), 0xcafe);
    r.argsz--;
    cr_assert_eq(call(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &r, sizeof(r)), 0);
    cr_expect_eq(get_le32(payload), r.argsz + 1, "the room it needs");
    cr_expect_eq(payload_len, sizeof(r));
    cr_expect_eq(nr_fds, 0);
    r.index = 1;
    cr_assert_eq(call(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &r, sizeof(r)), 0);
    cr_expect_eq(get_le32(payload + 12), 0);
    r.index = 8;
    cr_expect_eq(call(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &r, sizeof(r)), EINVAL);
    finish(0);
    start_and_negotiate(&emu_gpu, "{\"capabilities\":{\"max_msg_fds\":2}}");
    r = (struct vfio_user_region_io_fds){.argsz = 4096};
    cr_assert_eq(call(VFIO_USER_DEVICE_GET_REGION_IO_FDS, &r, sizeof(r)), 0);
    cr_expect_eq(get_le32(payload + 12), 2, "no more than the client takes");
    cr_expect_eq(nr_fds, 2);
    finish(0);
}

Test(emu, gpu_firmware)
{
    static const struct {
        uint32_t strict, ecx, ebx, status;
    } rows[] = {{0, 0x80000000, 0x4b4d564b, 1},  {1, 0x80000000, 0, 43},
                {1, 0x7ffafbff, 0x4b4d564b, 43}, {1, 0, 0, 43},
                {1, 0x7ffafbff, 0x00000d48, 1},  {1, 0x7ffafbff, 0, 1}};

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        config.strict = rows[i].strict;
        start_and_negotiate(&emu_gpu, CAPS);
        write_reg(0, 0x20, 4, rows[i].ecx);
        write_reg(0, 0x24, 4, rows[i].ebx);
        cr_expect_eq(read_reg(0, 0x2c, 4), 0);
        write_reg(0, 0x28, 4, 1);
        cr_expect_eq(read_reg(0, 0x2c, 4), rows[i].status, "%zu", i);
        finish(0);
    }
}

/* ---- example ---- */

Test(emu, example)
{
    int trigger = eventfd(0, EFD_CLOEXEC);

    start_and_negotiate(&emu_example, CAPS);
    cr_assert_eq(set_irqs(TRIGGER_FD, 0, 0, 1, &trigger, 1), 0);
    write_reg(0, 0, 4, 30);
    write_reg(0, 4, 4, 12);
    cr_expect_eq(read_reg(0, 8, 4), 42);
    cr_expect_eq(taken(trigger), 1);
    write_reg(0, 0xc, 4, 1);
    cr_expect_not(emu->irq[0].high);
    close(trigger);
    before--;
    finish(0);
}

/* The README shows the whole of it: every line, indented. */
Test(emu, example_is_as_in_the_readme)
{
    char line[256], readme[65536] = {0}, text[300];
    FILE *file = fopen("tests/emulated/README.md", "re");

    cr_assert(file, "run in the project's folder");
    cr_assert_gt(fread(readme, 1, sizeof(readme) - 1, file), 0);
    fclose(file);
    file = fopen("tests/emulated/example.c", "re");
    cr_assert(file);
    while (fgets(line, sizeof(line), file)) {
        snprintf(text, sizeof(text), "\n    %s", line);
        cr_expect(line[0] == '\n' || strstr(readme, text), "%s", line);
    }
    fclose(file);
}

/* ---- hostile clients, broken servers ---- */

Test(emu, messages_that_end_the_session)
{
    static const struct vfio_user_header bad[] = {
        {1, VFIO_USER_DEVICE_RESET, 0, 0, 0},
        {1, VFIO_USER_DEVICE_RESET, 15, 0, 0},
        {1, VFIO_USER_DEVICE_RESET, UINT32_MAX, 0, 0},
        {1, VFIO_USER_DEVICE_RESET, 1 << 20, 0, 0},
        {1, VFIO_USER_DEVICE_RESET, 16, VFIO_USER_REPLY, 0},
        {1, VFIO_USER_DEVICE_RESET, 16, 2, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        start_and_negotiate(&emu_platform, CAPS);
        cr_assert(send_raw(client_fd, &bad[i], sizeof(bad[i]), &ram_fd, 1));
        cr_expect_eq(get_reply(0), -1, "%zu", i);
        finish(-EPROTO);
    }
}

Test(emu, messages_refused)
{
    int pass[200];

    start_and_negotiate(&emu_platform, CAPS);
    for (unsigned i = 0; i < ARRAY_SIZE(pass); i++)
        pass[i] = ram_fd;
    for (uint16_t command = 1; command < 20; command++) {
        int want = command == VFIO_USER_DEVICE_RESET ? 0 : EINVAL;

        if (command >= 16 || command == 14 || command == VFIO_USER_DMA_READ ||
            command == VFIO_USER_DMA_WRITE)
            want = ENOTSUP;
        cr_expect_eq(call(command, "abc", 3), want, "%u", command);
        cr_expect_eq(call_fds(command, payload, 0, pass, 200), want ? want : EINVAL, "%u",
                     command);
    }
    cr_expect_eq(call(0, NULL, 0), ENOTSUP);
    cr_expect_eq(call(UINT16_MAX, NULL, 0), ENOTSUP);
    finish(0);
}

/* Well-formed messages with random contents: the server answers each. */
Test(emu, random_messages)
{
    static const struct emu_device *const all[] = {&emu_platform, &emu_gpu};
    unsigned seed = 1;

    config.xfer = 4096;
    for (unsigned round = 0; round < 2; round++) {
        start_and_negotiate(all[round], CAPS);
        cr_assert_eq(map_ram(RAM_BASE, RAM_SIZE, 3, true), 0);
        for (unsigned i = 0; i < 20000; i++) {
            uint32_t data[16];
            uint16_t command = (uint16_t)(2 + rand_r(&seed) % 14);
            unsigned len = (unsigned)rand_r(&seed) % sizeof(data);
            int pass[3] = {ram_fd, stop_fd, client_fd};

            for (unsigned w = 0; w < 16; w++)
                data[w] = (uint32_t)rand_r(&seed) >> (rand_r(&seed) % 4 * 10);
            data[0] = (rand_r(&seed) & 1) ? len : data[0] & 0xfff;
            if (command == VFIO_USER_REGION_WRITE && len >= 17) {
                data[1] = 0;
                data[3] = len - 16;
            }
            pass[1] = ram_fd;
            pass[2] = ram_fd;
            send_command(command, 0, data, len, pass, rand_r(&seed) % 8 ? 0 : i % 4);
            cr_assert_neq(get_reply(command), -1, "message %u", i);
        }
        finish(0);
    }
}

Test(emu, faults)
{
    struct vfio_user_header h;
    uint64_t fault;

    for (fault = FAULT_SHORT; fault <= FAULT_ERROR; fault++) {
        config.fault = fault;
        config.fault_at = 3;
        start_and_negotiate(&emu_platform, CAPS);
        cr_expect_eq(read_reg(0, 0, 4), 0x70756d65);
        send_command(VFIO_USER_DEVICE_RESET, 0, NULL, 0, NULL, 0);
        close_fds();
        memset(&h, 0, sizeof(h));
        recv_all(client_fd, &h, fault == FAULT_SHORT ? 12 : sizeof(h));
        cr_expect_eq(h.msg_id, fault == FAULT_BADID ? next_id ^ 1 : next_id);
        cr_expect_eq(h.command == VFIO_USER_DEVICE_RESET, fault != FAULT_BADCMD);
        cr_expect_eq(h.size, fault == FAULT_SHORT  ? 12
                             : fault == FAULT_LONG ? 16 + EMU_PADDING
                             : fault == FAULT_HUGE ? UINT32_MAX
                                                   : 16);
        cr_expect_eq(h.error, fault == FAULT_ERROR ? EIO : 0);
        cr_expect_eq(nr_fds, fault == FAULT_FDS ? EMU_FDS_MAX : 0);
        if (fault == FAULT_LONG)
            cr_expect(recv_all(client_fd, payload, EMU_PADDING));
        cr_expect_eq(read_reg(0, 0, 4), 0x70756d65, "once only");
        finish(0);
    }
}

Test(emu, fault_die_and_hang)
{
    config.fault = FAULT_DIE;
    config.fault_at = 2;
    start_and_negotiate(&emu_platform, CAPS);
    send_command(VFIO_USER_DEVICE_RESET, 0, NULL, 0, NULL, 0);
    finish(-ECANCELED);
    config.fault = FAULT_HANG;
    start_and_negotiate(&emu_platform, CAPS);
    send_command(VFIO_USER_DEVICE_RESET, 0, NULL, 0, NULL, 0);
    finish(0);
}
