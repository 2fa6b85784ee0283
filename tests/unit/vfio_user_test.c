/*
 * vfio_user_test.c: the vfio-user client against a played server: every command, what the
 * server may ask meanwhile, and every way in which it can misbehave.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/fake_vfio_kernel.h"
#include "tests/unit/fake_vfio_server.h"
#include "vfio/vfio.h"
#include "vmm/log.h"
#include "vmm/loop.h"
#include "vmm/mem.h"
#include "vmm/util.h"

static struct fake_server *server;
static struct loop *loop;
static struct vfio_user *user;
static struct vfio_device *dev;
static struct mem mem;
static unsigned files, losses;

static void set_up(void)
{
    fake_vfio_kernel_init(); /* catches the log */
    files = fake_open_files();
    server = fake_server_init();
    cr_assert_eq(loop_create(&loop), 0);
    cr_assert_eq(mem_init(&mem, 4 * MIB), 0);
    losses = 0;
}

static void tear_down(void)
{
    vfio_user_destroy(user);
    mem_fini(&mem);
    loop_destroy(loop);
    fake_server_fini();
    cr_expect_eq(fake_open_files(), files, "%u descriptors for %u", fake_open_files(), files);
    fake_vfio_kernel_fini();
}

TestSuite(vfio_user, .init = set_up, .fini = tear_down);

static void on_lost(void *opaque)
{
    cr_expect_eq(opaque, &losses);
    losses++;
}

static int try_connect(void)
{
    int err = vfio_user_connect(&user, "dev.sock", loop);
    if (err)
        return err;
    dev = vfio_user_device(user);
    dev->on_lost = on_lost;
    dev->opaque = &losses;
    return 0;
}

static void connect_user(void)
{
    cr_assert_eq(try_connect(), 0, "%s", fake_log());
    fake_server_forget();
}

/* The main thread's turn: until there is nothing left to do. */
static void run_loop(void)
{
    for (int i = 0; i < 3; i++) {
        loop_stop(loop);
        loop_run(loop);
    }
}

static struct vfio_region region_of(uint32_t index)
{
    struct vfio_region region;
    cr_assert_eq(dev->ops->region_info(dev, index, &region), 0, "%s", fake_log());
    return region;
}

static void map_ram(void)
{
    const struct mem_region *r = &mem.region[0];
    cr_assert_eq(dev->iommu->ops->map(dev->iommu, r->gpa, r->size, r->hva, mem.fd, 0), 0);
}

/* ---- connection and negotiation ---- */

Test(vfio_user, negotiates)
{
    server->json = "{\"capabilities\":{\"compatible\":\"acme,widget\"}}";
    server->twin = false;
    cr_assert_eq(try_connect(), 0);
    const struct fake_record *r = fake_server_find(VFIO_USER_VERSION, 0);
    cr_expect_eq(r->flags, VFIO_USER_REQUEST);
    cr_expect_eq(get_le32(r->data), 0, "version 0.0");
    cr_expect_eq(memcmp(r->data + 4, "{\"capabilities\":{\"max_msg_fds\":64,", 34), 0);
    cr_expect_str_eq(dev->name, "dev.sock");
    cr_expect_str_eq(dev->compatible, "acme,widget");
    cr_expect_eq(dev->flags, server->info.flags);
    cr_expect_eq(dev->regions, FAKE_SERVER_REGIONS);
    cr_expect_eq(dev->irqs, FAKE_SERVER_IRQS);
    cr_expect(dev->wants_msi_control);
    cr_expect_str_eq(fake_log(), "");
}

Test(vfio_user, server_without_capabilities)
{
    server->json = NULL;
    server->twin = false;
    cr_expect_eq(try_connect(), 0);
    cr_expect_str_eq(dev->compatible, "");
}

Test(vfio_user, server_that_has_any_number)
{
    server->info.num_regions = server->info.num_irqs = UINT32_MAX;
    cr_assert_eq(try_connect(), 0);
    cr_expect_leq(dev->regions, 64);
    cr_expect_leq(dev->irqs, 64);
    struct vfio_region region;
    cr_expect_eq(dev->ops->region_info(dev, dev->regions, &region), -EINVAL);
}

Test(vfio_user, refused_negotiations)
{
    static const struct {
        const char *json;
        uint16_t major, minor;
        bool twin;
        const char *word;
    } row[] = {
        {"{}", 1, 0, false, "speaks version 1.0 of vfio-user, not 0.0"},
        {"{}", 0, 1, false, "speaks version 0.1"},
        {"{", 0, 0, false, "capabilities that make no sense"},
        {"", 0, 0, false, "capabilities that make no sense"},
        {"{\"capabilities\":{\"max_data_xfer_size\":7}}", 0, 0, false, "takes only 7 bytes"},
        {"{\"capabilities\":{\"twin_socket\":{\"supported\":true}}}", 0, 0, true, "no twin"},
        {"{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":1}}}", 0, 0, true,
         "no twin"},
        {"{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}", 0, 0,
         false, "no twin"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        server->json = row[i].json;
        server->version = (struct vfio_user_version){row[i].major, row[i].minor};
        server->twin = row[i].twin;
        unsigned before = fake_open_files() - (server->fd >= 0) - (server->twin_fd >= 0);
        cr_expect_lt(try_connect(), 0, "%s", row[i].json);
        const char *log = fake_log();
        cr_expect_eq(fake_log_lines(log, ""), 1, "%s", log);
        cr_expect_eq(fake_log_lines(log, row[i].word), 1, "%s", log);
        cr_expect_eq(fake_log_lines(log, "minivmm: dev.sock: cannot "), 1, "%s", log);
        cr_expect_eq(fake_open_files(), before + 1 + row[i].twin, "%s", row[i].json);
        close(server->fd);
        if (server->twin_fd >= 0)
            close(server->twin_fd);
        server->fd = server->twin_fd = -1;
    }
}

Test(vfio_user, capabilities_without_an_end)
{
    static char text[3000];
    memset(text, ' ', sizeof(text) - 1);
    server->json = text;
    cr_expect_lt(try_connect(), 0);
    cr_expect_eq(fake_log_lines(fake_log(), "a reply of 3004 bytes"), 1);
}

Test(vfio_user, twin_that_is_no_socket)
{
    /* Of two descriptors the wrong one: the loop cannot watch a file. */
    server->twin = false;
    server->json = "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":3}}}";
    server->fault = FAKE_MANY_FDS; /* 70 eventfds */
    server->fault_command = VFIO_USER_VERSION;
    server->fault_nth = 1;
    cr_expect_lt(try_connect(), 0);
    cr_expect_eq(fake_log_lines(fake_log(), "too many descriptors"), 1);
}

Test(vfio_user, no_connection)
{
    static const struct {
        int err;
        const char *word;
    } row[] = {
        {ENOENT, "no such socket; start the device's server"},
        {ECONNREFUSED, "nobody listens there"},
        {EAGAIN, "busy with another client"},
        {EACCES, "no permission"},
        {EPROTOTYPE, "not a stream socket"},
        {ENOMEM, "Cannot allocate memory"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        server->connect_errno = row[i].err;
        cr_expect_eq(try_connect(), -row[i].err);
        const char *log = fake_log();
        cr_expect_eq(fake_log_lines(log, ""), 1, "%s", log);
        cr_expect_eq(fake_log_lines(log, row[i].word), 1, "%s", log);
    }
    cr_expect_leq(server->polls, 250, "it waits for a server that starts, not for ever");
}

Test(vfio_user, paths_that_cannot_be)
{
    char path[200];
    for (size_t len = 0; len < sizeof(path); len += 108) {
        memset(path, 'x', len);
        path[len] = '\0';
        cr_expect_eq(vfio_user_connect(&user, path, loop), -ENAMETOOLONG);
        cr_expect_eq(fake_log_lines(fake_log(), "has 1 to 107 characters"), 1);
    }
    server->connect_errno = ENOENT;
    path[107] = '\0';
    cr_expect_eq(vfio_user_connect(&user, path, loop), -ENOENT);
    user = NULL;
}

Test(vfio_user, a_file_is_no_socket)
{
    server->connect_errno = ECONNREFUSED; /* what the kernel says */
    cr_expect_eq(vfio_user_connect(&user, "/etc/passwd", loop), -ENOTSOCK);
    cr_expect_eq(fake_log_lines(fake_log(), "it is not a socket"), 1);
}

/* ---- regions ---- */

Test(vfio_user, region_of_a_file)
{
    connect_user();
    struct vfio_region region = region_of(0);
    cr_expect_eq(region.size, 64 * KIB);
    cr_expect_eq(region.areas, 1);
    cr_expect_eq(region.area[0].size, 64 * KIB);
    uint8_t *at = mmap(NULL, 64 * KIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct vfio_area second = {.offset = 0x1000, .size = 0x1000};
    cr_assert_eq(dev->ops->region_mmap(dev, &region, &second, at), 0);
    server->memory[0][0x1234] = 0x5a;
    cr_expect_eq(at[0x234], 0x5a);
    at[0x235] = 0xa5;
    cr_expect_eq(server->memory[0][0x1235], 0xa5);
    second.size = 64 * KIB;
    cr_expect_eq(dev->ops->region_mmap(dev, &region, &second, at), -EINVAL);
    munmap(at, 64 * KIB);
    region = region_of(1);
    cr_expect_eq(region.size, 256);
    cr_expect_eq(region.areas, 0);
    cr_expect_eq(dev->ops->region_mmap(dev, &region, &second, at), -EINVAL);
    cr_expect_eq(region_of(8).size, 0);
}

/* A sparse capability with areas as given, behind one that is unknown. */
static void sparse(unsigned nr, const struct vfio_region_sparse_mmap_area *area)
{
    struct {
        struct vfio_info_cap_header other;
        struct vfio_info_cap_header header;
        uint32_t nr_areas, reserved;
    } cap = {{99, 1, sizeof(struct vfio_region_info) + 8},
             {VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, 0},
             nr,
             0};
    memcpy(server->cap, &cap, sizeof(cap));
    memcpy(server->cap + sizeof(cap), area, nr * sizeof(*area));
    server->cap_size = (uint32_t)(sizeof(cap) + nr * sizeof(*area));
    server->cap_region = 0;
}

Test(vfio_user, sparse_areas)
{
    static const struct vfio_region_sparse_mmap_area area[] = {
        {0x3000, 0x1000}, {0x1000, 0x1000}, {0, 0}, {0x1000, 0x3000}, {0xf000, 0x100000}};
    connect_user();
    sparse(ARRAY_SIZE(area), area);
    struct vfio_region region = region_of(0);
    cr_expect_eq(fake_server_count(VFIO_USER_DEVICE_GET_REGION_INFO), 1, "room for all");
    cr_assert_eq(region.areas, 3, "%u", region.areas);
    cr_expect_eq(region.area[0].offset, 0x1000);
    cr_expect_eq(region.area[1].offset, 0x3000);
    cr_expect_eq(region.area[2].offset, 0xf000);
    cr_expect_eq(region.area[2].size, 0x1000);
}

Test(vfio_user, file_that_is_too_short)
{
    static const struct vfio_region_sparse_mmap_area area[] = {{0, 0x4000}, {0x8000, 0x4000}};
    connect_user();
    sparse(ARRAY_SIZE(area), area);
    cr_assert_eq(ftruncate(server->region_fd[0], 0x9fff), 0);
    struct vfio_region region = region_of(0);
    cr_assert_eq(region.areas, 2);
    cr_expect_eq(region.area[1].size, 0x1000, "whole pages that are there");
    cr_assert_eq(ftruncate(server->region_fd[0], 0x8000), 0);
    cr_expect_eq(region_of(0).areas, 1);
    server->region[0].offset = 0x7000; /* in the file */
    region = region_of(0);
    cr_assert_eq(region.areas, 1);
    cr_expect_eq(region.area[0].size, 0x1000);
    cr_assert_eq(ftruncate(server->region_fd[0], 0), 0);
    cr_expect_eq(region_of(0).areas, 0);
}

Test(vfio_user, descriptors_that_are_no_files)
{
    connect_user();
    int fd = server->region_fd[0];
    server->region_fd[0] = server->fd;
    cr_expect_eq(region_of(0).areas, 0);
    server->region_fd[0] = -1;
    cr_expect_eq(region_of(0).areas, 0, "none at all");
    server->region_fd[0] = fd;
    cr_expect_eq(region_of(0).areas, 1);
}

Test(vfio_user, regions_that_cannot_be)
{
    static const struct vfio_region_sparse_mmap_area area = {0, 0x1000};
    struct vfio_region region;
    connect_user();
    server->region[0].size = UINT64_MAX;
    server->region[0].offset = 0x1000;
    cr_expect_eq(dev->ops->region_info(dev, 0, &region), -EIO);
    server->region[0].size = 64 * KIB;
    server->region[0].offset = 0;
    sparse(1, &area);
    memset(server->cap, 0xff, 64); /* a chain that leads nowhere */
    cr_expect_eq(region_of(0).areas, 1);
    cr_expect_not(dev->lost);
}

Test(vfio_user, answer_that_is_too_long)
{
    struct vfio_region region;
    connect_user();
    server->cap_region = 0;
    server->cap_size = 0x7fffff00;
    cr_expect_eq(dev->ops->region_info(dev, 0, &region), -EMSGSIZE);
    cr_expect_eq(fake_server_count(VFIO_USER_DEVICE_GET_REGION_INFO), 1);
}

Test(vfio_user, ioeventfds)
{
    connect_user();
    static const struct vfio_user_io_fd entry[] = {
        {.offset = 0x10, .size = 4, .fd_index = 1},
        {.offset = 0xfc, .size = 4, .fd_index = 0},
        {.offset = 0x20, .size = 0, .fd_index = 0},
        {.offset = 0x30, .size = 4, .fd_index = 2},            /* no such descriptor */
        {.offset = 0xfd, .size = 4, .fd_index = 0},            /* beyond the region */
        {.offset = UINT64_MAX, .size = 4, .fd_index = 0},      /* likewise */
        {.offset = 0x40, .size = 3, .fd_index = 0},            /* no access has that size */
        {.offset = 0x50, .size = 4, .flags = 1, .fd_index = 0} /* of one value only */
    };
    memcpy(server->io_fd, entry, sizeof(entry));
    server->io_region = 1;
    server->io_fds = ARRAY_SIZE(entry);
    server->io_event_fds = 2;
    struct vfio_region region = region_of(1);
    cr_assert_eq(region.ioeventfds, 3);
    cr_expect_eq(region.ioeventfd[0].offset, 0x10);
    cr_expect_eq(region.ioeventfd[0].size, 4);
    cr_expect_neq(region.ioeventfd[0].fd, region.ioeventfd[1].fd);
    cr_expect_eq(region.ioeventfd[1].fd, region.ioeventfd[2].fd);
    cr_expect_eq(region.ioeventfd[2].size, 0);
    cr_expect(fcntl(region.ioeventfd[0].fd, F_GETFD) & FD_CLOEXEC);
    server->io_fd[0].type = VFIO_USER_IO_FD_SHADOW;
    cr_expect_eq(region_of(1).ioeventfds, 2);
    server->io_region = 7;
    cr_expect_eq(region_of(1).ioeventfds, 0);
}

Test(vfio_user, old_servers_are_not_asked_for_ioeventfds)
{
    server->json = "{}";
    server->twin = false;
    connect_user();
    region_of(1);
    cr_expect_eq(fake_server_count(VFIO_USER_DEVICE_GET_REGION_IO_FDS), 0);
}

Test(vfio_user, reads_and_writes)
{
    static const uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t data[9];
    connect_user();
    struct vfio_region region = region_of(1);
    fake_server_forget();
    for (unsigned len = 1; len <= 8; len++) {
        memset(server->memory[1], 0xee, 32);
        cr_expect_eq(dev->ops->region_write(dev, &region, 5, bytes, len), 0);
        cr_expect_eq(memcmp(server->memory[1] + 5, bytes, len), 0);
        cr_expect_eq(server->memory[1][5 + len], 0xee);
        memset(data, 0, sizeof(data));
        cr_expect_eq(dev->ops->region_read(dev, &region, 5, data, len), 0);
        cr_expect_eq(memcmp(data, bytes, len), 0);
        cr_expect_eq(data[len], 0);
    }
    cr_expect_eq(dev->ops->region_read(dev, &region, 256, data, 1), -EINVAL);
    cr_expect_eq(dev->ops->region_read(dev, &region, 250, data, 7), -EINVAL);
    cr_expect_eq(dev->ops->region_read(dev, &region, UINT64_MAX, data, 4), -EINVAL);
    cr_expect_eq(dev->ops->region_write(dev, &region, 0, data, 9), -EINVAL);
    cr_expect_eq(server->nr, 16, "those were not sent");
    server->region[1].size = 4; /* the server knows better */
    cr_expect_eq(dev->ops->region_read(dev, &region, 8, data, 4), -EINVAL);
    cr_expect_not(dev->lost, "an error reply is no fault");
}

/* ---- posted writes ---- */

static const struct vfio_region posted = {.index = 1, .flags = 3, .size = 256, .posted = true};

Test(vfio_user, posted_writes_are_not_waited_for)
{
    uint32_t value = 0x11223344;
    connect_user();
    unsigned polls = server->polls;
    cr_expect_eq(dev->ops->region_write(dev, &posted, 8, &value, 4), 0);
    cr_expect_eq(dev->ops->region_write(dev, &posted, 12, &value, 2), 0);
    cr_expect_eq(server->polls, polls);
    uint32_t back;
    cr_expect_eq(dev->ops->region_read(dev, &posted, 8, &back, 4), 0);
    cr_expect_eq(back, value, "but a read comes after them");
    cr_assert_eq(server->nr, 3);
    cr_expect_eq(server->log[0].flags, VFIO_USER_REQUEST | VFIO_USER_NO_REPLY);
    cr_expect_eq(server->log[0].size, 16 + 16 + 4);
    cr_expect_eq(server->log[1].size, 16 + 16 + 2);
    cr_expect_eq(get_le16(server->memory[1] + 12), 0x3344);
    cr_expect_eq(server->memory[1][14], 0);
}

Test(vfio_user, without_a_twin_socket_nothing_is_posted)
{
    uint32_t value = 7;
    server->json = "{\"capabilities\":{\"write_multiple\":true}}";
    server->twin = false;
    connect_user();
    cr_expect_eq(dev->ops->region_write(dev, &posted, 8, &value, 4), 0);
    cr_expect_eq(server->log[0].flags, VFIO_USER_REQUEST);
    cr_expect_eq(server->memory[1][8], 7);
}

/* A write that is still under way could be overtaken by one to memory or to an ioeventfd. */
Test(vfio_user, where_there_is_a_way_past_the_socket_nothing_is_posted)
{
    uint32_t value = 7;
    connect_user();
    region_of(1);
    cr_expect_eq(dev->ops->region_write(dev, &posted, 8, &value, 4), 0);
    fake_server_forget();
    cr_expect_neq(region_of(0).areas, 0);
    fake_server_forget();
    cr_expect_eq(dev->ops->region_write(dev, &posted, 8, &value, 4), 0);
    cr_expect_eq(server->log[0].flags, VFIO_USER_REQUEST);
}

static unsigned to_post;

/* As another vCPU would, while a reply is awaited. */
static void post_meanwhile(struct fake_server *s, const struct fake_message *in)
{
    if (in->header.command != VFIO_USER_REGION_READ)
        return;
    s->hook = NULL;
    for (unsigned i = 0; i < to_post; i++) {
        uint8_t value = (uint8_t)(0x40 + i);
        cr_expect_eq(dev->ops->region_write(dev, &posted, i, &value, 1), 0);
    }
    cr_expect_eq(s->memory[1][0], 0, "not yet");
}

Test(vfio_user, posted_meanwhile_go_together)
{
    uint8_t value;
    connect_user();
    to_post = 16;
    server->hook = post_meanwhile;
    cr_expect_eq(dev->ops->region_read(dev, &posted, 0, &value, 1), 0);
    cr_expect_eq(value, 0);
    fake_server_run();
    cr_assert_eq(server->nr, 2);
    cr_expect_eq(server->log[1].command, VFIO_USER_REGION_WRITE_MULTI);
    cr_expect_eq(server->log[1].flags, VFIO_USER_REQUEST | VFIO_USER_NO_REPLY);
    cr_expect_eq(server->log[1].size, 16 + 8 + 16 * 24);
    for (unsigned i = 0; i < 16; i++)
        cr_expect_eq(server->memory[1][i], 0x40 + i);
}

Test(vfio_user, posted_meanwhile_to_a_server_without_write_multiple)
{
    uint8_t value;
    server->json = "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}";
    connect_user();
    to_post = 3;
    server->hook = post_meanwhile;
    cr_expect_eq(dev->ops->region_read(dev, &posted, 0, &value, 1), 0);
    fake_server_run();
    cr_expect_eq(server->nr, 4);
    cr_expect_eq(fake_server_count(VFIO_USER_REGION_WRITE), 3);
    cr_expect_eq(server->memory[1][2], 0x42);
}

static atomic_uint thread_posted;

static void *post_much(void *opaque)
{
    (void)opaque;
    for (unsigned i = 0; i < 40; i++) {
        uint8_t value = (uint8_t)i;
        cr_expect_eq(dev->ops->region_write(dev, &posted, i, &value, 1), 0);
        atomic_fetch_add(&thread_posted, 1);
    }
    return NULL;
}

static pthread_t poster;

static void start_poster(struct fake_server *s, const struct fake_message *in)
{
    (void)in;
    s->hook = NULL;
    cr_assert_eq(pthread_create(&poster, NULL, post_much, NULL), 0);
    while (atomic_load(&thread_posted) < 16)
        sched_yield();
}

Test(vfio_user, full_queue_waits)
{
    uint8_t value;
    connect_user();
    server->hook = start_poster;
    cr_expect_eq(dev->ops->region_read(dev, &posted, 0, &value, 1), 0);
    cr_assert_eq(pthread_join(poster, NULL), 0);
    fake_server_run();
    cr_expect_eq(atomic_load(&thread_posted), 40);
    for (unsigned i = 0; i < 40; i++)
        cr_expect_eq(server->memory[1][i], i);
}

/* ---- interrupts, reset ---- */

#define TRIGGER (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER)

static uint32_t set_word(unsigned nth, unsigned word)
{
    const struct fake_record *r = fake_server_find(VFIO_USER_DEVICE_SET_IRQS, nth);
    cr_assert(r);
    return get_le32(r->data + 4 * word);
}

Test(vfio_user, vectors_go_in_batches)
{
    int fd[20];
    uint64_t value;
    connect_user();
    for (int i = 0; i < 20; i++)
        fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cr_expect_eq(dev->ops->irq_set(dev, 2, TRIGGER, 3, 20, fd), 0);
    static const uint32_t start[] = {3, 11, 19}, count[] = {8, 8, 4};
    cr_assert_eq(server->nr, 3);
    for (unsigned i = 0; i < 3; i++) {
        cr_expect_eq(set_word(i, 0), 20, "argsz");
        cr_expect_eq(set_word(i, 1), TRIGGER);
        cr_expect_eq(set_word(i, 2), 2);
        cr_expect_eq(set_word(i, 3), start[i]);
        cr_expect_eq(set_word(i, 4), count[i]);
        cr_expect_eq(server->log[i].fds, count[i]);
        cr_expect_eq(server->log[i].size, 16 + 20);
    }
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(eventfd_write(server->vector[2][3 + i], 1), 0);
        cr_expect_eq(eventfd_read(fd[i], &value), 0, "vector %d is its own", i);
        close(fd[i]);
    }
}

Test(vfio_user, vectors_without_a_descriptor)
{
    int fd[5] = {-1, -1, eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC), -1};
    connect_user();
    cr_expect_eq(dev->ops->irq_set(dev, 2, TRIGGER, 0, 5, fd), 0);
    cr_assert_eq(server->nr, 3);
    cr_expect_eq(server->log[0].fds, 0);
    cr_expect_eq(set_word(0, 4), 2);
    cr_expect_eq(server->log[1].fds, 2);
    cr_expect_eq(set_word(1, 3), 2);
    cr_expect_eq(server->log[2].fds, 0);
    cr_expect_eq(set_word(2, 3), 4);
    cr_expect_lt(server->vector[2][1], 0);
    cr_expect_geq(server->vector[2][2], 0);
    close(fd[2]);
    close(fd[3]);
}

Test(vfio_user, server_that_takes_few_descriptors)
{
    int fd[3] = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)};
    server->json = "{}"; /* one, by default */
    server->twin = false;
    connect_user();
    cr_expect_eq(dev->ops->irq_set(dev, 2, TRIGGER, 0, 3, fd), 0);
    cr_expect_eq(server->nr, 3);
    for (int i = 0; i < 3; i++)
        close(fd[i]);
}

Test(vfio_user, server_that_takes_no_descriptors)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    server->json = "{\"capabilities\":{\"max_msg_fds\":0}}";
    server->twin = false;
    connect_user();
    cr_expect_eq(dev->ops->irq_set(dev, 2, TRIGGER, 0, 1, &fd), -EOPNOTSUPP);
    map_ram();
    cr_expect_eq(fake_server_find(VFIO_USER_DMA_MAP, 0)->fds, 0);
    close(fd);
}

Test(vfio_user, interrupts_without_data)
{
    connect_user();
    struct vfio_irq_info info;
    cr_expect_eq(dev->ops->irq_info(dev, 1, &info), 0);
    cr_expect_eq(info.count, 4);
    cr_expect_eq(info.flags, VFIO_IRQ_INFO_EVENTFD);
    cr_expect_eq(dev->ops->irq_info(dev, 9, &info), -EINVAL);
    fake_server_forget();
    cr_expect_eq(dev->ops->irq_set(dev, 0, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK,
                                   0, 1, NULL),
                 0);
    cr_expect_eq(set_word(0, 1), VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK);
    cr_expect_eq(set_word(0, 4), 1);
}

Test(vfio_user, reset)
{
    connect_user();
    cr_expect_eq(dev->ops->reset(dev), 0);
    cr_expect_eq(server->resets, 1);
    dev->flags &= ~(uint32_t)VFIO_DEVICE_FLAGS_RESET;
    cr_expect_eq(dev->ops->reset(dev), -ENOTTY);
    cr_expect_eq(server->resets, 1);
}

/* ---- DMA ---- */

Test(vfio_user, maps_ram)
{
    struct vfio_dma_limits limits;
    server->json = "{\"capabilities\":{\"max_dma_maps\":3,\"pgsizes\":2097152}}";
    server->twin = false;
    connect_user();
    cr_expect_eq(vfio_dma_get_limits(dev->iommu, &limits), 0);
    cr_expect_eq(limits.nr, 0);
    cr_expect_eq(limits.page, 2 * MIB);
    cr_expect_eq(limits.avail, 3);
    cr_expect_eq(vfio_dma_map_ram(dev->iommu, &mem), 0);
    cr_assert_eq(server->maps, 1);
    cr_expect_eq(server->map[0].argsz, 32);
    cr_expect_eq(server->map[0].flags, 3);
    cr_expect_eq(server->map[0].size, 4 * MIB);
    uint8_t *view = mmap(NULL, 4096, PROT_READ, MAP_SHARED, server->map_fd[0], 0x3000);
    cr_assert_neq(view, MAP_FAILED);
    mem.region[0].hva[0x3004] = 0x77;
    cr_expect_eq(view[4], 0x77);
    munmap(view, 4096);
    vfio_dma_unmap_ram(dev->iommu, &mem);
    cr_expect_eq(server->maps, 0);
    const struct fake_record *r = fake_server_find(VFIO_USER_DMA_UNMAP, 0);
    cr_expect_eq(r->size, 16 + 24);
    cr_expect_eq(get_le64(r->data + 16), 4 * MIB);
}

Test(vfio_user, maps_that_are_refused)
{
    connect_user();
    server->maps = ARRAY_SIZE(server->map);
    const struct mem_region *r = &mem.region[0];
    for (int i = 0; i < 20; i++)
        cr_expect_eq(dev->iommu->ops->map(dev->iommu, r->gpa, r->size, r->hva, mem.fd, 0),
                     -ENOSPC, "and none is kept");
    server->maps = 0;
    server->json = "{}";
    map_ram();
}

static struct vfio_user_dma_access ask_dma;
static uint16_t ask_command;
static uint32_t ask_flags;
static bool ask_twin;

/* The server's own command, sent before it replies to ours. */
static void ask_meanwhile(struct fake_server *s, const struct fake_message *in)
{
    struct {
        struct vfio_user_dma_access head;
        uint8_t data[64];
    } m = {.head = ask_dma, .data = "from the device"};
    (void)in;
    s->hook = NULL;
    fake_server_send(ask_twin ? s->twin_fd : s->fd, ask_command, ask_flags, &m,
                     sizeof(m.head) + (ask_command == VFIO_USER_DMA_WRITE ? ask_dma.count : 0));
}

static void ask_during_a_read(uint16_t command, uint64_t address, uint64_t count)
{
    uint32_t value;
    ask_command = command;
    ask_dma = (struct vfio_user_dma_access){.address = address, .count = count};
    server->hook = ask_meanwhile;
    server->replies = 0;
    put_le32(server->memory[1], 0xcafe);
    cr_expect_eq(dev->ops->region_read(dev, &posted, 0, &value, 4), 0);
    cr_expect_eq(value, 0xcafe, "the reply to ours is found behind it");
    fake_server_run();
    cr_expect_eq(server->replies, ask_flags & VFIO_USER_NO_REPLY ? 0 : 1);
}

static void expect_dma_works(void)
{
    static const char from_guest[] = "from the guest";
    map_ram();
    memcpy(mem.region[0].hva + 0x1ff8, from_guest, sizeof(from_guest));
    ask_during_a_read(VFIO_USER_DMA_READ, 0x1ff8, sizeof(from_guest));
    cr_expect_eq(server->reply.header.msg_id, 0x7777);
    cr_expect_eq(server->reply.header.flags, VFIO_USER_REPLY);
    cr_expect_eq(server->reply.header.size, 32 + sizeof(from_guest));
    cr_expect_eq(get_le64(server->reply.data), 0x1ff8);
    cr_expect_eq(get_le64(server->reply.data + 8), sizeof(from_guest));
    cr_expect_str_eq((char *)server->reply.data + 16, from_guest);
    ask_during_a_read(VFIO_USER_DMA_WRITE, 4 * MIB - 16, 16);
    cr_expect_eq(server->reply.header.flags, VFIO_USER_REPLY);
    cr_expect_eq(server->reply.header.size, 32);
    cr_expect_str_eq((char *)mem.region[0].hva + 4 * MIB - 16, "from the device");
}

Test(vfio_user, server_asks_while_we_wait)
{
    connect_user();
    expect_dma_works();
}

Test(vfio_user, server_asks_on_the_twin_socket)
{
    connect_user();
    ask_twin = true;
    expect_dma_works();
}

Test(vfio_user, server_wants_no_reply)
{
    connect_user();
    map_ram();
    ask_flags = VFIO_USER_NO_REPLY;
    ask_during_a_read(VFIO_USER_DMA_WRITE, 0x100, 16);
    cr_expect_str_eq((char *)mem.region[0].hva + 0x100, "from the device");
}

Test(vfio_user, what_is_refused_to_the_server)
{
    static const struct {
        uint16_t command;
        uint64_t address, count;
        uint32_t err;
    } row[] = {
        {VFIO_USER_DMA_READ, 4 * MIB, 1, EFAULT},
        {VFIO_USER_DMA_READ, 4 * MIB - 7, 8, EFAULT},
        {VFIO_USER_DMA_READ, UINT64_MAX, 8, EFAULT},
        {VFIO_USER_DMA_READ, 0, MIB + 1, EINVAL},
        {VFIO_USER_DMA_READ, 0, UINT64_MAX, EINVAL},
        {VFIO_USER_DMA_WRITE, 4 * MIB - 15, 16, EFAULT},
        {VFIO_USER_DMA_WRITE, UINT64_MAX - 3, 16, EFAULT},
        {VFIO_USER_DEVICE_RESET, 0, 0, ENOTSUP},
        {77, 0, 0, ENOTSUP},
    };
    connect_user();
    map_ram();
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        ask_during_a_read(row[i].command, row[i].address, row[i].count);
        cr_expect_eq(server->reply.header.flags, VFIO_USER_REPLY | VFIO_USER_ERROR);
        cr_expect_eq(server->reply.header.error, row[i].err, "row %zu", i);
        cr_expect_eq(server->reply.header.size, 16);
    }
    struct vfio_user_dma_access short_one = {.address = 0, .count = 8};
    fake_server_send(server->fd, VFIO_USER_DMA_WRITE, 0, &short_one, sizeof(short_one));
    run_loop();
    fake_server_run();
    cr_expect_eq(server->reply.header.error, EINVAL, "data is missing");
    fake_server_send(server->fd, VFIO_USER_DMA_READ, 0, &short_one, 8);
    run_loop();
    fake_server_run();
    cr_expect_eq(server->reply.header.error, EINVAL, "half of it is missing");
    cr_expect_not(dev->lost);
}

Test(vfio_user, nothing_is_mapped_after_unmap)
{
    connect_user();
    map_ram();
    cr_expect_eq(dev->iommu->ops->unmap(dev->iommu, 0, 4 * MIB), 0);
    ask_during_a_read(VFIO_USER_DMA_READ, 0, 8);
    cr_expect_eq(server->reply.header.error, EFAULT);
}

Test(vfio_user, server_asks_while_nobody_waits)
{
    connect_user();
    map_ram();
    const struct vfio_user_dma_access a = {.address = 0x10, .count = 4};
    put_le32(mem.region[0].hva + 0x10, 0xabcd);
    for (unsigned i = 0; i < 2; i++) {
        fake_server_send(i ? server->twin_fd : server->fd, VFIO_USER_DMA_READ, 0, &a,
                         sizeof(a));
        run_loop();
        fake_server_run();
        cr_expect_eq(server->replies, i + 1);
        cr_expect_eq(get_le32(server->reply.data + 16), 0xabcd);
    }
    cr_expect_eq(losses, 0);
}

/* A mebibyte goes through in pieces. */
Test(vfio_user, the_biggest_transfer)
{
    uint32_t value;
    connect_user();
    map_ram();
    struct {
        struct vfio_user_header header;
        struct vfio_user_dma_access dma;
    } head = {{.command = VFIO_USER_DMA_WRITE, .size = (uint32_t)(32 + MIB)},
              {.address = 0x1000, .count = MIB}};
    static uint8_t bytes[MIB];
    memset(bytes, 0x3c, sizeof(bytes));
    size_t done = 0;
    cr_assert_eq(send(server->fd, &head, sizeof(head), 0), sizeof(head));
    while (done < sizeof(bytes)) {
        ssize_t n = send(server->fd, bytes + done, sizeof(bytes) - done, MSG_DONTWAIT);
        if (n > 0)
            done += (size_t)n;
        else
            run_loop();
    }
    run_loop();
    cr_expect_eq(dev->ops->region_read(dev, &posted, 0, &value, 4), 0);
    cr_expect_eq(server->replies, 1);
    cr_expect_eq(server->reply.header.flags, VFIO_USER_REPLY);
    cr_expect_eq(mem.region[0].hva[0xfff], 0);
    cr_expect_eq(mem.region[0].hva[0x1000], 0x3c);
    cr_expect_eq(mem.region[0].hva[0x1000 + MIB - 1], 0x3c);
    cr_expect_eq(mem.region[0].hva[0x1000 + MIB], 0);
}

/* The server does not read for a while, and asks in the meantime: on both sockets. */
static void deaf_for_a_while(bool on_twin)
{
    const struct vfio_user_dma_access a = {.address = 0x10, .count = 4};
    connect_user();
    map_ram();
    int size = 1;
    setsockopt(server->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    fake_server_send(on_twin ? server->twin_fd : server->fd, VFIO_USER_DMA_READ, 0, &a,
                     sizeof(a));
    server->deaf = 1;
    uint32_t sent = 0;
    while (server->deaf && sent < 100000) {
        sent++;
        cr_assert_eq(dev->ops->region_write(dev, &posted, 0, &sent, 4), 0);
    }
    cr_expect_eq(server->deaf, 0, "it was full");
    run_loop();
    fake_server_run();
    cr_expect_eq(server->replies, 1);
    cr_expect_eq(get_le32(server->memory[1]), sent, "nothing is lost");
    cr_expect_not(dev->lost);
}

Test(vfio_user, deaf_server_asks)
{
    deaf_for_a_while(false);
}

Test(vfio_user, deaf_server_asks_on_the_twin_socket)
{
    deaf_for_a_while(true);
}

/* ---- misbehaviour ---- */

/* Everything fails, at once and in silence; the loop is told once; nothing stays open. */
static void expect_lost(const char *what)
{
    struct vfio_region region = posted;
    struct vfio_irq_info info;
    uint32_t value = 0;
    unsigned polls = server->polls;
    cr_expect(dev->lost, "%s", what);
    const char *log = fake_log();
    cr_expect_eq(fake_log_lines(log, "minivmm: dev.sock: cannot go on with the device: its "),
                 1, "%s: %s", what, log);
    cr_expect_eq(dev->ops->region_read(dev, &region, 0, &value, 4), -EIO);
    cr_expect_eq(dev->ops->region_write(dev, &region, 0, &value, 4), -EIO);
    cr_expect_eq(dev->ops->region_info(dev, 0, &region), -EIO);
    cr_expect_eq(dev->ops->irq_info(dev, 0, &info), -EIO);
    cr_expect_eq(dev->ops->irq_set(dev, 0, VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, NULL), -EIO);
    cr_expect_eq(dev->ops->reset(dev), -EIO);
    cr_expect_eq(dev->iommu->ops->unmap(dev->iommu, 0, 4 * MIB), -EIO);
    cr_expect_eq(server->polls, polls, "%s", what);
    unsigned before = losses;
    run_loop();
    cr_expect_eq(losses, before + 1, "%s", what);
    run_loop();
    cr_expect_eq(losses, before + 1, "%s", what);
    cr_expect_str_eq(fake_log(), "", "%s", what);
}

static int call_info(void)
{
    struct vfio_region region;
    return dev->ops->region_info(dev, 0, &region);
}

static int call_irq_info(void)
{
    struct vfio_irq_info info;
    return dev->ops->irq_info(dev, 0, &info);
}

static int call_irq_set(void)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    int err = dev->ops->irq_set(dev, 0, TRIGGER, 0, 1, &fd);
    close(fd);
    return err;
}

static int call_read(void)
{
    uint32_t value;
    return dev->ops->region_read(dev, &posted, 0, &value, 4);
}

static int call_write(void)
{
    const struct vfio_region region = {.index = 1, .flags = 3, .size = 256};
    uint32_t value = 0;
    return dev->ops->region_write(dev, &region, 0, &value, 4);
}

static int call_reset(void)
{
    return dev->ops->reset(dev);
}

static int call_map(void)
{
    return dev->iommu->ops->map(dev->iommu, 0, 4 * MIB, mem.region[0].hva, mem.fd, 0);
}

static int call_unmap(void)
{
    return dev->iommu->ops->unmap(dev->iommu, 0, 4 * MIB);
}

static const struct command {
    uint16_t command;
    int (*call)(void);
} commands[] = {
    {VFIO_USER_DEVICE_GET_REGION_INFO, call_info},
    {VFIO_USER_DEVICE_GET_REGION_IO_FDS, call_info},
    {VFIO_USER_DEVICE_GET_IRQ_INFO, call_irq_info},
    {VFIO_USER_DEVICE_SET_IRQS, call_irq_set},
    {VFIO_USER_REGION_READ, call_read},
    {VFIO_USER_REGION_WRITE, call_write},
    {VFIO_USER_DEVICE_RESET, call_reset},
    {VFIO_USER_DMA_MAP, call_map},
    {VFIO_USER_DMA_UNMAP, call_unmap},
};

/* One connection for each row, with nothing left behind. */
static void misbehave(const struct command *c, enum fake_fault fault)
{
    char what[64];
    snprintf(what, sizeof(what), "command %u, fault %d", c->command, (int)fault);
    fake_server_fini();
    unsigned before = fake_open_files();
    server = fake_server_init();
    if (fault & 1) {
        server->json = "{\"capabilities\":{\"write_multiple\":true}}";
        server->twin = false;
    }
    connect_user();
    if (c->call == call_unmap)
        map_ram();
    fake_server_forget();
    server->fault = fault;
    server->fault_command = c->command;
    server->fault_nth = 1;
    int err = c->call();
    bool shortcut = c->command == VFIO_USER_DEVICE_GET_REGION_IO_FDS;
    switch (fault) {
    case FAKE_ERROR:
        cr_expect_eq(err, shortcut ? 0 : -EDOM, "%s: %d", what, err);
        cr_expect_not(dev->lost, "%s", what);
        break;
    case FAKE_ERROR_0:
        cr_expect_eq(err, shortcut ? 0 : -EIO, "%s: %d", what, err);
        cr_expect_not(dev->lost, "%s", what);
        break;
    case FAKE_DRIPS:
        cr_expect_eq(err, 0, "%s", what);
        cr_expect_not(dev->lost, "%s", what);
        break;
    case FAKE_TWICE: /* found by the next one */
        cr_expect_eq(err, 0, "%s", what);
        cr_expect_eq(call_read(), -EIO, "%s", what);
        expect_lost(what);
        break;
    default:
        cr_expect_eq(err, shortcut ? 0 : -EIO, "%s: %d", what, err);
        expect_lost(what);
    }
    cr_expect_leq(server->polls, 300, "%s", what);
    fake_log();
    vfio_user_destroy(user);
    user = NULL;
    fake_server_fini();
    cr_expect_eq(fake_open_files(), before, "%s", what);
}

Test(vfio_user, misbehaviour)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        for (enum fake_fault fault = FAKE_GOOD + 1; fault < FAKE_FAULTS; fault++)
            misbehave(&commands[i], fault);
}

/* The same while it starts: an error, and nothing left. */
Test(vfio_user, misbehaviour_at_the_start)
{
    static const uint16_t at[] = {VFIO_USER_VERSION, VFIO_USER_DEVICE_GET_INFO};
    for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
        for (enum fake_fault fault = FAKE_GOOD + 1; fault < FAKE_FAULTS; fault++) {
            fake_server_fini();
            unsigned before = fake_open_files();
            server = fake_server_init();
            server->fault = fault;
            server->fault_command = at[i];
            server->fault_nth = 1;
            int err = try_connect();
            const char *log = fake_log();
            if (fault == FAKE_DRIPS && at[i] == VFIO_USER_VERSION) {
                cr_expect_eq(fake_log_lines(log, "not answered"), 1); /* it is long */
            } else if (fault == FAKE_DRIPS ||
                       (fault == FAKE_TWICE && at[i] == VFIO_USER_DEVICE_GET_INFO)) {
                cr_expect_eq(err, 0); /* no fault, or found later */
                vfio_user_destroy(user);
            } else {
                cr_expect_lt(err, 0, "fault %d", (int)fault);
                cr_expect_eq(fake_log_lines(log, ""), 1, "fault %d: %s", (int)fault, log);
                cr_expect_eq(fake_log_lines(log, "minivmm: dev.sock: cannot "), 1, "%s", log);
            }
            user = NULL;
            fake_server_fini();
            cr_expect_eq(fake_open_files(), before, "fault %d", (int)fault);
        }
    }
}

Test(vfio_user, unasked_replies_and_nonsense_in_the_loop)
{
    static const struct vfio_user_header message[] = {
        {.msg_id = 5, .command = VFIO_USER_REGION_READ, .size = 16, .flags = VFIO_USER_REPLY},
        {.command = VFIO_USER_DMA_READ, .size = 15},
        {.command = VFIO_USER_DMA_READ, .size = UINT32_MAX},
        {.command = VFIO_USER_DMA_READ, .size = 16, .flags = 7},
    };
    for (size_t i = 0; i < 2 * ARRAY_SIZE(message); i++) {
        fake_server_fini();
        server = fake_server_init();
        connect_user();
        (void)!write(i & 1 ? server->twin_fd : server->fd, &message[i / 2], 16);
        unsigned before = losses;
        run_loop();
        cr_expect_eq(losses, before + 1);
        cr_expect_eq(fake_log_lines(fake_log(), "cannot go on"), 1, "message %zu", i / 2);
        cr_expect_eq(call_read(), -EIO);
        vfio_user_destroy(user);
        user = NULL;
    }
}

Test(vfio_user, server_that_dies_while_nobody_waits)
{
    connect_user();
    map_ram();
    for (int i = 0; i < 2; i++)
        run_loop();
    cr_expect_eq(losses, 0);
    close(server->fd);
    server->fd = -1;
    run_loop();
    cr_expect_eq(losses, 1);
    cr_expect_eq(fake_log_lines(fake_log(), "its server closed the connection"), 1);
    cr_expect_eq(call_reset(), -EIO);
    vfio_dma_unmap_ram(dev->iommu, &mem);
}

Test(vfio_user, twin_socket_that_is_closed)
{
    connect_user();
    close(server->twin_fd);
    server->twin_fd = -1;
    cr_expect_eq(call_read(), -EIO);
    expect_lost("twin");
}

Test(vfio_user, nobody_is_told_after_close)
{
    connect_user();
    dev->ops->close(dev);
    close(server->fd);
    server->fd = -1;
    run_loop();
    cr_expect_eq(losses, 0);
    cr_expect(dev->lost);
}

Test(vfio_user, a_flood_does_not_hold_the_loop)
{
    connect_user();
    const struct vfio_user_dma_access a = {.address = 0, .count = 8};
    for (int i = 0; i < 100; i++)
        fake_server_send(server->fd, VFIO_USER_DMA_READ, VFIO_USER_NO_REPLY, &a, sizeof(a));
    loop_stop(loop);
    loop_run(loop); /* returns */
    cr_expect_eq(call_read(), 0, "what was left is carried out while we wait");
    cr_expect_not(dev->lost);
}

/* A server that keeps sending has no more time than one that sends nothing. */
Test(vfio_user, time_is_bounded)
{
    static const enum fake_fault fault[] = {FAKE_DRIPS, FAKE_FLOODS};
    for (size_t i = 0; i < ARRAY_SIZE(fault); i++) {
        fake_server_fini();
        server = fake_server_init();
        connect_user();
        server->fault = fault[i];
        server->fault_command = VFIO_USER_DEVICE_GET_REGION_INFO;
        server->fault_nth = 1;
        server->cap_region = 1;
        server->cap_size = 1000; /* so that a drip takes too long */
        unsigned polls = server->polls;
        struct vfio_region region;
        cr_expect_eq(dev->ops->region_info(dev, 1, &region), -EIO);
        cr_expect_leq(server->polls - polls, 10000 / FAKE_TICK_MS + 1);
        cr_expect_eq(fake_log_lines(fake_log(), "has not answered for 10 s"), 1);
        vfio_user_destroy(user);
        user = NULL;
    }
}

Test(vfio_user, two_instances)
{
    struct vfio_user *first, *second;
    connect_user();
    first = user;
    int fd = server->fd, twin = server->twin_fd;
    connect_user();
    second = user;
    uint32_t value = 7;
    cr_expect_eq(call_read(), 0);
    user = first;
    vfio_user_destroy(second);
    close(server->fd);
    close(server->twin_fd);
    server->fd = fd;
    server->twin_fd = twin;
    dev = vfio_user_device(first);
    cr_expect_eq(dev->ops->region_read(dev, &posted, 0, &value, 4), 0);
    cr_expect_eq(value, 0);
}
