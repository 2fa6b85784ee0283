/*
 * fake_vfio_server.c: see fake_vfio_server.h.
 */
#include "tests/unit/fake_vfio_server.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vmm/util.h"

int __real_socket(int domain, int type, int protocol);
int __real_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __real_poll(struct pollfd *pfd, nfds_t nr, int timeout);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
int __real_clock_gettime(clockid_t id, struct timespec *t);
int __real_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event);
int __real_eventfd(unsigned value, int flags);
void *__real_malloc(size_t size);
void *__real_calloc(size_t nr, size_t size);
void *__real_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset);
int __wrap_socket(int domain, int type, int protocol);
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_poll(struct pollfd *pfd, nfds_t nr, int timeout);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event);
int __wrap_eventfd(unsigned value, int flags);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t nr, size_t size);
void *__wrap_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset);

static struct fake_server server;

/* ---- life ---- */

static void make_memory(unsigned index, uint64_t size, bool file)
{
    int fd = memfd_create("region", MFD_CLOEXEC);
    cr_assert(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    server.memory[index] = __real_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cr_assert_neq(server.memory[index], MAP_FAILED);
    server.region[index] = (struct vfio_region_info){
        .index = index,
        .flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
        .size = size,
    };
    if (file) {
        server.region[index].flags |= VFIO_REGION_INFO_FLAG_MMAP;
        server.region_fd[index] = fd;
    } else {
        close(fd);
    }
}

static void make_config(uint8_t *config)
{
    put_le32(config, 0x1234abcd);
    put_le16(config + PCI_STATUS, PCI_STATUS_CAP_LIST);
    put_le32(config + PCI_BASE_ADDRESS_2, PCI_BASE_ADDRESS_SPACE_IO);
    config[PCI_CAPABILITY_LIST] = 0x50;
    config[PCI_INTERRUPT_PIN] = 1;
    put_le16(config + 0x50, PCI_CAP_ID_MSI | 0x60 << 8);
    put_le16(config + 0x52, 2 << 1); /* four messages */
    put_le16(config + 0x60, PCI_CAP_ID_MSIX);
    put_le16(config + 0x62, FAKE_SERVER_VECTORS - 1);
    put_le32(config + 0x64, 0x8000);
    put_le32(config + 0x68, 0x9000);
}

struct fake_server *fake_server_init(void)
{
    server = (struct fake_server){
        .json = "{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576,"
                "\"write_multiple\":true,"
                "\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}",
        .twin = true,
        .info = {.argsz = sizeof(server.info),
                 .flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
                 .num_regions = FAKE_SERVER_REGIONS,
                 .num_irqs = FAKE_SERVER_IRQS},
        .fd = -1,
        .twin_fd = -1,
        .unmask_fd = -1,
        .cap_region = UINT32_MAX,
        .io_region = UINT32_MAX,
        .up = true,
    };
    for (unsigned i = 0; i < FAKE_SERVER_REGIONS; i++)
        server.region_fd[i] = -1;
    memset(server.vector, 0xff, sizeof(server.vector));
    memset(server.map_fd, 0xff, sizeof(server.map_fd));
    make_memory(0, 64 * KIB, true);
    make_memory(1, 4 * KIB, false);
    server.region[1].size = 256;
    make_memory(2, 4 * KIB, false);
    server.region[2].size = 16;
    make_memory(VFIO_PCI_CONFIG_REGION_INDEX, 4 * KIB, false);
    make_config(server.memory[VFIO_PCI_CONFIG_REGION_INDEX]);
    static const uint32_t count[] = {1, 4, FAKE_SERVER_VECTORS};
    for (uint32_t i = 0; i < ARRAY_SIZE(count); i++)
        server.irq[i] = (struct vfio_irq_info){
            .index = i, .count = count[i], .flags = VFIO_IRQ_INFO_EVENTFD};
    return &server;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* As when the server process ends. */
static void hang_up(void)
{
    close_fd(&server.fd);
    close_fd(&server.twin_fd);
    for (unsigned i = 0; i < FAKE_SERVER_IRQS; i++)
        for (unsigned k = 0; k < FAKE_SERVER_VECTORS; k++)
            close_fd(&server.vector[i][k]);
    for (unsigned i = 0; i < ARRAY_SIZE(server.map_fd); i++)
        close_fd(&server.map_fd[i]);
    close_fd(&server.unmask_fd);
}

void fake_server_fini(void)
{
    if (!server.up)
        return;
    server.up = false;
    hang_up();
    for (unsigned i = 0; i < FAKE_SERVER_REGIONS; i++) {
        close_fd(&server.region_fd[i]);
        if (server.memory[i])
            munmap(server.memory[i], i ? 4 * KIB : 64 * KIB);
        server.memory[i] = NULL;
    }
}

void fake_server_forget(void)
{
    server.nr = 0;
    server.seen = 0;
}

const struct fake_record *fake_server_find(uint16_t command, unsigned nth)
{
    for (unsigned i = 0; i < server.nr; i++)
        if (server.log[i].command == command && nth-- == 0)
            return &server.log[i];
    return NULL;
}

unsigned fake_server_count(uint16_t command)
{
    unsigned n = 0;
    while (fake_server_find(command, n))
        n++;
    return n;
}

unsigned fake_open_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* ---- messages ---- */

static void transmit(int fd, const void *data, size_t size, const int *pass, unsigned nr)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(FAKE_SERVER_FDS * sizeof(int))];
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)data, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nr) {
        control.align = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                                         .cmsg_type = SCM_RIGHTS,
                                         .cmsg_len = CMSG_LEN(nr * sizeof(int))};
        memcpy(CMSG_DATA(&control.align), pass, nr * sizeof(int));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(nr * sizeof(int));
    }
    /* The client may have hung up. */
    (void)!__real_sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void fake_server_send(int fd, uint16_t command, uint32_t flags, const void *data, size_t size)
{
    struct fake_message m = {.header = {.msg_id = 0x7777,
                                        .command = command,
                                        .flags = flags,
                                        .size = (uint32_t)(sizeof(m.header) + size)}};
    cr_assert_leq(size, sizeof(m.data));
    if (size)
        memcpy(m.data, data, size);
    transmit(fd, &m, m.header.size, NULL, 0);
}

/* A whole message, or false. The client sends small ones, each by one call. */
static bool receive(int fd, struct fake_message *m)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(FAKE_SERVER_FDS * sizeof(int))];
    } control;
    struct iovec iov = {&m->header, sizeof(m->header)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    m->fds = 0;
    if (fd < 0 ||
        __real_recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != sizeof(m->header))
        return false;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c) {
        m->fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(m->fd, CMSG_DATA(c), m->fds * sizeof(int));
    }
    size_t size = m->header.size - sizeof(m->header);
    cr_assert_leq(size, sizeof(m->data));
    if (size)
        cr_assert_eq(recv(fd, m->data, size, MSG_WAITALL), (ssize_t)size);
    return true;
}

/* Only as much as the client's limit allows, as servers do; else its length is said. */
static void answer_growing(struct fake_message *out, uint32_t room, uint32_t size)
{
    memcpy(out->data, &size, sizeof(size));
    out->header.size = (uint32_t)sizeof(out->header) + (room < size ? 0 : size);
}

/* ---- commands: 0 or an errno; OUT begins as a reply without data ---- */

static int version(const struct fake_message *in, struct fake_message *out)
{
    size_t len = server.json ? strlen(server.json) + 1 : 0;
    int pair[2];
    (void)in;
    memcpy(out->data, &server.version, sizeof(server.version));
    if (len)
        memcpy(out->data + sizeof(server.version), server.json, len);
    out->header.size += (uint32_t)(sizeof(server.version) + len);
    if (server.twin) {
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        server.twin_fd = pair[0];
        out->fd[out->fds++] = pair[1];
    }
    return 0;
}

static int dma_map(struct fake_message *in, struct fake_message *out)
{
    (void)out;
    if (server.maps == ARRAY_SIZE(server.map))
        return ENOSPC;
    memcpy(&server.map[server.maps], in->data, sizeof(server.map[0]));
    server.map_fd[server.maps++] = in->fds ? in->fd[0] : -1;
    in->fds = 0;
    return 0;
}

static int dma_unmap(const struct fake_message *in, struct fake_message *out)
{
    struct vfio_user_dma_unmap u;
    memcpy(&u, in->data, sizeof(u));
    memcpy(out->data, &u, sizeof(u));
    out->header.size += (uint32_t)sizeof(u);
    for (unsigned i = 0; i < server.maps; i++) {
        if (server.map[i].address != u.address || server.map[i].size != u.size)
            continue;
        close_fd(&server.map_fd[i]);
        server.map[i] = server.map[--server.maps];
        server.map_fd[i] = server.map_fd[server.maps];
        server.map_fd[server.maps] = -1;
        return 0;
    }
    return ENOENT;
}

static int get_info(const struct fake_message *in, struct fake_message *out)
{
    (void)in;
    memcpy(out->data, &server.info, sizeof(server.info));
    out->header.size += (uint32_t)sizeof(server.info);
    return 0;
}

static int region_info(const struct fake_message *in, struct fake_message *out)
{
    struct vfio_region_info ask, info;
    memcpy(&ask, in->data, sizeof(ask));
    if (ask.index >= FAKE_SERVER_REGIONS || ask.argsz < sizeof(ask))
        return EINVAL;
    info = server.region[ask.index];
    uint32_t caps = ask.index == server.cap_region ? server.cap_size : 0;
    uint32_t size = (uint32_t)sizeof(info) + caps;
    if (caps) {
        info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
        info.cap_offset = sizeof(info);
    }
    memcpy(out->data, &info, sizeof(info));
    memcpy(out->data + sizeof(info), server.cap, MIN(caps, sizeof(server.cap)));
    answer_growing(out, ask.argsz, size);
    if (ask.argsz < size)
        out->header.size += (uint32_t)sizeof(info);
    if (server.region_fd[ask.index] >= 0)
        out->fd[out->fds++] = dup(server.region_fd[ask.index]);
    return 0;
}

static int region_io_fds(const struct fake_message *in, struct fake_message *out)
{
    struct vfio_user_region_io_fds head;
    memcpy(&head, in->data, sizeof(head));
    uint32_t room = head.argsz;
    head.count = head.index == server.io_region ? server.io_fds : 0;
    uint32_t size = (uint32_t)(sizeof(head) + head.count * sizeof(server.io_fd[0]));
    memcpy(out->data, &head, sizeof(head));
    memcpy(out->data + sizeof(head), server.io_fd, sizeof(server.io_fd));
    answer_growing(out, room, size);
    if (room < size)
        out->header.size += (uint32_t)sizeof(head);
    else if (head.count)
        for (unsigned i = 0; i < server.io_event_fds; i++)
            out->fd[out->fds++] = __real_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return 0;
}

static int irq_info(const struct fake_message *in, struct fake_message *out)
{
    struct vfio_irq_info info;
    memcpy(&info, in->data, sizeof(info));
    if (info.index >= FAKE_SERVER_IRQS)
        return EINVAL;
    memcpy(out->data, &server.irq[info.index], sizeof(info));
    out->header.size += (uint32_t)sizeof(info);
    return 0;
}

static int set_irqs(struct fake_message *in, struct fake_message *out)
{
    struct vfio_irq_set set;
    (void)out;
    memcpy(&set, in->data, sizeof(set));
    if (set.index >= FAKE_SERVER_IRQS || set.start + set.count > FAKE_SERVER_VECTORS)
        return EINVAL;
    if (set.flags == (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER) && !set.count)
        for (unsigned i = 0; i < FAKE_SERVER_VECTORS; i++)
            close_fd(&server.vector[set.index][i]);
    if (!(set.flags & VFIO_IRQ_SET_DATA_EVENTFD))
        return 0;
    if (in->fds && in->fds != set.count)
        return EINVAL;
    for (unsigned i = 0; i < set.count; i++) {
        int *fd = set.flags & VFIO_IRQ_SET_ACTION_UNMASK
                      ? &server.unmask_fd
                      : &server.vector[set.index][set.start + i];
        close_fd(fd);
        if (in->fds) {
            *fd = in->fd[i];
            in->fd[i] = -1;
        }
    }
    in->fds = 0;
    return 0;
}

static int region_access(const struct fake_message *in, struct fake_message *out)
{
    struct vfio_user_region_access a;
    bool write = in->header.command == VFIO_USER_REGION_WRITE;
    memcpy(&a, in->data, sizeof(a));
    if (a.region >= FAKE_SERVER_REGIONS ||
        !range_within(a.offset, a.count, server.region[a.region].size))
        return EINVAL;
    uint8_t *at = server.memory[a.region] + a.offset;
    memcpy(out->data, &a, sizeof(a));
    out->header.size += (uint32_t)sizeof(a);
    if (write) {
        memcpy(at, in->data + sizeof(a), a.count);
    } else {
        memcpy(out->data + sizeof(a), at, a.count);
        out->header.size += a.count;
    }
    return 0;
}

static int write_multi(const struct fake_message *in, struct fake_message *out)
{
    uint64_t count;
    (void)out;
    memcpy(&count, in->data, sizeof(count));
    for (uint64_t i = 0; i < count; i++) {
        struct vfio_user_write_multi w;
        memcpy(&w, in->data + sizeof(count) + i * sizeof(w), sizeof(w));
        memcpy(server.memory[w.region] + w.offset, &w.data, w.count);
    }
    return 0;
}

static int carry_out(struct fake_message *in, struct fake_message *out)
{
    switch (in->header.command) {
    case VFIO_USER_VERSION:
        return version(in, out);
    case VFIO_USER_DMA_MAP:
        return dma_map(in, out);
    case VFIO_USER_DMA_UNMAP:
        return dma_unmap(in, out);
    case VFIO_USER_DEVICE_GET_INFO:
        return get_info(in, out);
    case VFIO_USER_DEVICE_GET_REGION_INFO:
        return region_info(in, out);
    case VFIO_USER_DEVICE_GET_REGION_IO_FDS:
        return region_io_fds(in, out);
    case VFIO_USER_DEVICE_GET_IRQ_INFO:
        return irq_info(in, out);
    case VFIO_USER_DEVICE_SET_IRQS:
        return set_irqs(in, out);
    case VFIO_USER_REGION_READ:
    case VFIO_USER_REGION_WRITE:
        return region_access(in, out);
    case VFIO_USER_REGION_WRITE_MULTI:
        return write_multi(in, out);
    case VFIO_USER_DEVICE_RESET:
        server.resets++;
        return 0;
    default:
        return ENOTSUP;
    }
}

/* ---- replies ---- */

static void send_reply(const struct fake_message *m)
{
    transmit(server.fd, &m->header, m->header.size, m->fd, m->fds);
}

static void send_part(const struct fake_message *m, size_t size)
{
    transmit(server.fd, &m->header, size, m->fd, m->fds);
    hang_up();
}

static void change_size(struct fake_message *m, int delta)
{
    m->header.size = (uint32_t)((int)m->header.size + delta);
    send_reply(m);
}

static void flood(void)
{
    const struct vfio_user_dma_access a = {.address = 0x123456789000, .count = 8};
    for (int i = 0; i < 16; i++)
        fake_server_send(server.fd, VFIO_USER_DMA_READ, VFIO_USER_NO_REPLY, &a, sizeof(a));
}

static void reply_badly(const struct fake_message *in, struct fake_message *m)
{
    switch (server.fault) {
    case FAKE_SILENT:
        return;
    case FAKE_HANGS_UP:
        hang_up();
        return;
    case FAKE_HALF_HEADER:
        send_part(m, 8);
        return;
    case FAKE_HALF_DATA:
        send_part(m, sizeof(m->header) + (m->header.size - sizeof(m->header)) / 2);
        return;
    case FAKE_DRIPS:
        memcpy(server.drip, m, m->header.size);
        server.drip_size = m->header.size;
        server.drip_done = 0;
        return;
    case FAKE_OTHER_ID:
        m->header.msg_id++;
        break;
    case FAKE_OTHER_COMMAND:
        m->header.command++;
        break;
    case FAKE_NO_REPLY:
        m->header = in->header;
        memcpy(m->data, in->data, in->header.size - sizeof(in->header));
        break;
    case FAKE_ODD_TYPE:
        m->header.flags |= 2;
        break;
    case FAKE_SIZE_SMALL:
        m->header.size = sizeof(m->header) - 1;
        break;
    case FAKE_SIZE_HUGE:
        m->header.size = 0x40000000;
        transmit(server.fd, &m->header, sizeof(m->header), NULL, 0);
        return;
    case FAKE_LONGER:
        change_size(m, 8);
        return;
    case FAKE_SHORTER:
        change_size(m, m->header.size > sizeof(m->header) ? -1 : 3000);
        return;
    case FAKE_ERROR:
    case FAKE_ERROR_0:
        m->header.flags |= VFIO_USER_ERROR;
        m->header.error = server.fault == FAKE_ERROR ? EDOM : 0;
        m->header.size = sizeof(m->header);
        break;
    case FAKE_ERROR_DATA:
        m->header.flags |= VFIO_USER_ERROR;
        m->header.size = sizeof(m->header) + 4;
        break;
    case FAKE_MANY_FDS:
        while (m->fds < FAKE_SERVER_FDS - 10)
            m->fd[m->fds++] = __real_eventfd(0, EFD_CLOEXEC);
        break;
    case FAKE_MANY_FDS_TWICE: /* each time as many as are allowed */
        while (m->fds < 60)
            m->fd[m->fds++] = __real_eventfd(0, EFD_CLOEXEC);
        transmit(server.fd, &m->header, 8, m->fd, m->fds);
        transmit(server.fd, (char *)&m->header + 8, m->header.size - 8, m->fd, m->fds);
        return;
    case FAKE_TWICE:
        send_reply(m);
        break;
    case FAKE_FLOODS:
        flood();
        return;
    default:
        break;
    }
    send_reply(m);
}

static void record(const struct fake_message *in)
{
    if (server.nr == FAKE_SERVER_LOG)
        return;
    struct fake_record *r = &server.log[server.nr++];
    r->command = in->header.command;
    r->flags = in->header.flags;
    r->size = in->header.size;
    r->fds = in->fds;
    memcpy(r->data, in->data, sizeof(r->data));
}

static void handle(struct fake_message *in)
{
    static struct fake_message out;
    record(in);
    if (server.hook)
        server.hook(&server, in);
    out.header = in->header;
    out.header.flags = VFIO_USER_REPLY;
    out.header.size = sizeof(out.header);
    out.fds = 0;
    int err = carry_out(in, &out);
    if (err) {
        out.header.flags |= VFIO_USER_ERROR;
        out.header.error = (uint32_t)err;
        out.header.size = sizeof(out.header);
    }
    bool bad = in->header.command == server.fault_command && ++server.seen == server.fault_nth;
    if (in->header.flags & VFIO_USER_NO_REPLY)
        ;
    else if (bad)
        reply_badly(in, &out);
    else
        send_reply(&out);
    for (unsigned i = 0; i < out.fds; i++)
        close(out.fd[i]);
    for (unsigned i = 0; i < in->fds; i++)
        close(in->fd[i]);
}

static void go_on_badly(void)
{
    if (server.fault == FAKE_FLOODS && server.seen >= server.fault_nth)
        flood();
    if (server.drip_done < server.drip_size)
        transmit(server.fd, server.drip + server.drip_done++, 1, NULL, 0);
}

void fake_server_run(void)
{
    static struct fake_message in;
    while (receive(server.fd, &in)) {
        if ((in.header.flags & VFIO_USER_TYPE) == VFIO_USER_REQUEST) {
            handle(&in);
        } else {
            server.reply = in;
            server.replies++;
        }
    }
    if (receive(server.twin_fd, &in)) {
        server.reply = in;
        server.replies++;
    }
    if (server.fd >= 0)
        go_on_badly();
}

/* ---- the wrapped calls ---- */

static bool fails(void)
{
    if (!server.counting || ++server.calls != server.fail_at)
        return false;
    errno = server.fail_errno;
    return true;
}

int __wrap_socket(int domain, int type, int protocol)
{
    return fails() ? -1 : __real_socket(domain, type, protocol);
}

int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
    int pair[2];
    if (!server.up)
        return __real_connect(fd, addr, len);
    if (fails())
        return -1;
    if (server.connect_errno) {
        errno = server.connect_errno;
        return -1;
    }
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    server.fd = pair[0];
    dup3(pair[1], fd, O_CLOEXEC);
    close(pair[1]);
    server.connects++;
    return 0;
}

int __wrap_poll(struct pollfd *pfd, nfds_t nr, int timeout)
{
    if (!server.up)
        return __real_poll(pfd, nr, timeout);
    if (fails())
        return -1;
    bool counting = server.counting;
    server.counting = false;
    server.polls++;
    server.ticks++;
    int n = 0;
    if (server.deaf) {
        server.deaf--;
        n = __real_poll(pfd, nr, 0);
    }
    if (n == 0) {
        fake_server_run();
        n = __real_poll(pfd, nr, 0);
    }
    server.counting = counting;
    return n;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    return fails() ? -1 : __real_sendmsg(fd, msg, flags);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
    return fails() ? -1 : __real_recvmsg(fd, msg, flags);
}

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
    int ret = __real_clock_gettime(id, t);
    if (server.up && id == CLOCK_MONOTONIC)
        *t = (struct timespec){.tv_sec = 1000000 + server.ticks * FAKE_TICK_MS / 1000,
                               .tv_nsec = server.ticks * FAKE_TICK_MS % 1000 * 1000000};
    return ret;
}

int __wrap_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event)
{
    return op == EPOLL_CTL_ADD && fails() ? -1 : __real_epoll_ctl(epoll_fd, op, fd, event);
}

int __wrap_eventfd(unsigned value, int flags)
{
    return fails() ? -1 : __real_eventfd(value, flags);
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t nr, size_t size)
{
    return fails() ? NULL : __real_calloc(nr, size);
}

void *__wrap_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
    return fails() ? MAP_FAILED : __real_mmap(addr, size, prot, flags, fd, offset);
}
