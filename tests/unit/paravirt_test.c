/*
 * paravirt_test.c: the machine's virtio devices: which there are and where, with the devices of
 * --vfio kept off; and every call to the hypervisor and the loop undone at the end.
 */
#include "vmm/paravirt.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/virtio_ids.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/pci.h"
#include "tests/unit/fake_hv.h"
#include "vmm/bus.h"
#include "vmm/log.h"
#include "vmm/loop.h"
#include "vmm/mem.h"
#include "vmm/util.h"

static struct fake_hv fake;
static struct bus pio, mmio;
static struct pci_bus bus;
static struct loop *loop;
static struct mem mem;
static struct paravirt p;
static struct options opt;
static struct paravirt_config config;
static char dir[] = "/tmp/minivmm-paravirt-XXXXXX";

static void add(const char *name, bool ro)
{
    struct option_disk *d = &opt.disk[opt.disks++];
    snprintf(d->path, sizeof(d->path), "%s/%s", dir, name);
    d->ro = ro;
    int fd = open(d->path, O_RDWR | O_CREAT, 0600);
    cr_assert(fd >= 0 && !ftruncate(fd, 65536));
    close(fd);
}

static void setup(void)
{
    log_set_level(LOG_ERROR);
    fake_hv_init(&fake);
    cr_assert(!bus_init(&pio) && !bus_init(&mmio) && !loop_create(&loop));
    cr_assert(!pci_bus_init(&bus, &pio, &mmio) && !mem_init(&mem, 2 * MIB) && mkdtemp(dir));
    opt = (struct options){.cpus = 2};
    config = (struct paravirt_config){
        .opt = &opt, .hv = &fake.hv, .bus = &bus, .loop = loop, .mem = &mem};
}

static void teardown(void)
{
    char command[64];
    pci_bus_fini(&bus);
    cr_expect_eq(mmio.nr, 0);
    cr_expect_eq(fake_hv_live(&fake), 0);
    loop_destroy(loop);
    mem_fini(&mem);
    snprintf(command, sizeof(command), "/bin/rm -rf %s", dir);
    cr_expect_eq(system(command), 0);
}

TestSuite(paravirt, .init = setup, .fini = teardown);

static uint32_t id_at(unsigned slot)
{
    return (uint32_t)pci_bus_config_read(&bus, PCI_DEVFN(slot, 0), PCI_VENDOR_ID, 4);
}

Test(paravirt, nothing_without_a_disk)
{
    cr_assert_eq(paravirt_open(&p, &config), 0);
    cr_expect_eq(paravirt_slots(&p), 0);
    for (unsigned slot = 1; slot < PCI_SLOTS; slot++)
        cr_expect_eq(id_at(slot), 0xffffffff);
    paravirt_close(&p);
}

Test(paravirt, disks_in_their_order_then_the_random_source)
{
    add("a", false);
    add("b", true);
    cr_assert_eq(paravirt_open(&p, &config), 0);
    cr_expect_eq(id_at(28), 0xffffffff);
    cr_expect_eq(id_at(29), (0x1040 + VIRTIO_ID_BLOCK) << 16 | 0x1af4);
    cr_expect_eq(id_at(30), (0x1040 + VIRTIO_ID_BLOCK) << 16 | 0x1af4);
    cr_expect_eq(id_at(31), (0x1040 + VIRTIO_ID_RNG) << 16 | 0x1af4);
    cr_expect(bus.dev[PCI_DEVFN(29, 0)]->name == opt.disk[0].path, "a guest's first");
    cr_expect_eq(paravirt_slots(&p), 0xe0000000);
    paravirt_reset(&p);
    paravirt_close(&p);
    cr_expect_eq(id_at(31), 0xffffffff);
}

Test(paravirt, as_many_as_there_can_be)
{
    for (unsigned i = 0; i < OPTIONS_DISK_MAX; i++) {
        char name[8];
        snprintf(name, sizeof(name), "%u", i);
        add(name, false);
    }
    cr_assert_eq(paravirt_open(&p, &config), 0);
    cr_expect_eq(paravirt_slots(&p), 0xffff0000);
    cr_assert_eq(pci_bus_assign(&bus), 0);
    paravirt_close(&p);
}

Test(paravirt, more_than_the_bus_has_room_for)
{
    opt.disks = OPTIONS_DISK_MAX; /* of no name: none of them is opened */
    opt.nets = OPTIONS_NET_MAX;
    opt.shares = 8; /* with the random source one too many */
    cr_expect_eq(paravirt_open(&p, &config), -ENOSPC);
    cr_expect_eq(paravirt_slots(&p), 0);
    paravirt_close(&p);
}

/* What is said, in one line, of disks that cannot be opened; cli.sh tests it, too. */
static void refused(const char *want)
{
    char text[256] = "";
    int pipes[2], old = dup(STDERR_FILENO);
    cr_assert_eq(pipe(pipes), 0);
    dup2(pipes[1], STDERR_FILENO);
    int err = paravirt_open(&p, &config);
    dup2(old, STDERR_FILENO);
    cr_expect_eq(err, -EAGAIN);
    cr_assert_gt(read(pipes[0], text, sizeof(text) - 1), 0);
    cr_expect(strstr(text, want), "%s", text);
    cr_expect(strstr(text, opt.disk[0].path), "%s", text);
    paravirt_close(&p);
}

Test(paravirt, a_disk_that_another_has)
{
    char want[64];
    struct flock lock = {.l_type = F_WRLCK};
    add("a", false);
    int fd = open(opt.disk[0].path, O_RDWR);
    cr_assert_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
    snprintf(want, sizeof(want), "process %d ", getpid());
    refused(want);
    close(fd);
}

Test(paravirt, a_disk_given_twice)
{
    add("a", false);
    add("a", true);
    refused("another --disk of this guest has it");
}

Test(paravirt, a_slot_that_is_taken)
{
    struct pci_dev squatter;
    static const struct pci_dev_ops ops = {0};
    pci_dev_init(&squatter, &ops, "squatter");
    cr_assert_eq(pci_bus_add(&bus, &squatter, PCI_DEVFN(31, 0)), 0);
    add("a", false);
    log_set_level(LOG_ERROR);
    cr_expect_eq(paravirt_open(&p, &config), -EEXIST);
    cr_expect_eq(paravirt_slots(&p), 0x40000000);
    paravirt_close(&p);
    pci_bus_remove(&bus, &squatter);
}

/* A passt that runs: a socket that takes connections. */
static int listen_at(struct option_net *n, const char *name)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s", dir, name);
    snprintf(n->where, sizeof(n->where), "passt=%s", addr.sun_path);
    cr_assert(!bind(fd, (struct sockaddr *)&addr, sizeof(addr)) && !listen(fd, 16));
    return fd;
}

static uint64_t mac_at(unsigned slot)
{
    const struct pci_bar *bar = &bus.dev[PCI_DEVFN(slot, 0)]->bar[0];
    uint64_t mac = 0;
    pci_bus_config_write(&bus, PCI_DEVFN(slot, 0), PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    for (unsigned i = 0; i < 6; i++)
        bus_read(&mmio, bar->addr + 0x800 + i, (uint8_t *)&mac + i, 1);
    return mac;
}

Test(paravirt, networks_come_after_disks_and_keep_their_addresses)
{
    int fd = listen_at(&opt.net[0], "sock");
    opt.net[1] = opt.net[2] = opt.net[0];
    memcpy(opt.net[2].mac, "\x02\x00\x00\x00\x00\x07", 6);
    opt.nets = 3;
    add("a", false);
    uint64_t mac[2][3];
    for (unsigned round = 0; round < 2; round++) {
        memset(&p, 0, sizeof(p));
        cr_assert_eq(paravirt_open(&p, &config), 0);
        cr_expect_eq(paravirt_slots(&p), 0xf8000000);
        cr_expect_eq(id_at(27), (0x1040 + VIRTIO_ID_BLOCK) << 16 | 0x1af4);
        cr_expect_eq(id_at(28), (0x1040 + VIRTIO_ID_NET) << 16 | 0x1af4);
        cr_expect_eq(id_at(31), (0x1040 + VIRTIO_ID_RNG) << 16 | 0x1af4);
        cr_assert_eq(pci_bus_assign(&bus), 0);
        for (unsigned i = 0; i < 3; i++)
            mac[round][i] = mac_at(28 + i);
        paravirt_close(&p);
    }
    cr_expect_arr_eq(mac[0], mac[1], sizeof(mac[0]));
    cr_expect_eq(mac[0][0] & 0xff, 0x52);
    cr_expect_neq(mac[0][0], mac[0][1]);
    cr_expect_eq(mac[0][2], 0x070000000002);
    close(fd);
}

Test(paravirt, a_network_that_is_not_there)
{
    close(listen_at(&opt.net[0], "sock"));
    opt.nets = 1;
    cr_expect_eq(paravirt_open(&p, &config), -ECONNREFUSED);
    paravirt_close(&p);
    snprintf(opt.net[0].where, sizeof(opt.net[0].where), "passt=%s/none", dir);
    cr_expect_eq(paravirt_open(&p, &config), -ENOENT);
    paravirt_close(&p);
    setenv("PATH", dir, 1);
    strcpy(opt.net[0].where, "passt");
    cr_expect_eq(paravirt_open(&p, &config), -ENOENT);
    paravirt_close(&p);
    strcpy(opt.net[0].where, "tap=no-such-tap");
    cr_expect_eq(paravirt_open(&p, &config), -ENODEV);
    paravirt_close(&p);
}

/* passt's part is a shell script's. */
static void make_passt(const char *script)
{
    char path[64];
    snprintf(path, sizeof(path), "%s/passt", dir);
    FILE *f = fopen(path, "w");
    cr_assert(f);
    fprintf(f, "#!/bin/sh\ncd %s\n%s\n", dir, script);
    fclose(f);
    cr_assert_eq(chmod(path, 0700), 0);
    setenv("PATH", dir, 1);
    strcpy(opt.net[0].where, "passt");
}

/* What it is told, and that it has the socket. */
Test(paravirt, passt_is_started_and_ended)
{
    char path[64], text[128] = "";
    make_passt("echo \"$@\" >args; echo $$ >/proc/self/fd/0; read x <&3");
    opt.net[0].forward[0] = (struct option_forward){.host = 2222, .guest = 22};
    opt.net[0].forward[1] = (struct option_forward){.udp = true, .host = 53, .guest = 5353};
    opt.net[0].forwards = 2;
    opt.nets = 1;
    cr_assert_eq(paravirt_open(&p, &config), 0);
    pid_t pid = p.passt[0].pid;
    cr_assert_gt(pid, 0);
    snprintf(path, sizeof(path), "%s/args", dir);
    FILE *f = fopen(path, "r");
    cr_assert(f && fgets(text, sizeof(text), f));
    fclose(f);
    cr_expect_str_eq(text, "--foreground --quiet --fd 3 --pid /proc/self/fd/0 -t 2222:22 "
                           "-u 53:5353\n");
    cr_expect_eq(kill(pid, 0), 0);
    paravirt_close(&p);
    cr_expect(kill(pid, 0) && errno == ESRCH);
}

/* As where a port is taken: an error at once, not a guest whose cable is pulled. */
Test(paravirt, passt_that_ends_before_it_is_ready)
{
    make_passt("exit 1");
    opt.nets = 1;
    cr_expect_lt(paravirt_open(&p, &config), 0);
    cr_expect_eq(paravirt_slots(&p), 0);
    paravirt_close(&p);
    cr_expect(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}

/* Of one family, as QEMU takes it; passt itself would not mind. */
Test(paravirt, a_port_that_is_taken)
{
    struct sockaddr_in6 addr;
    make_passt("echo $$ >/proc/self/fd/0; read x <&3");
    opt.nets = opt.net[0].forwards = 1;
    for (unsigned i = 0; i < 4; i++) {
        bool udp = i & 1;
        socklen_t len = sizeof(addr);
        addr = (struct sockaddr_in6){.sin6_family = i & 2 ? AF_INET6 : AF_INET};
        int on = 1, fd = socket(addr.sin6_family, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
        if (bind(fd, (struct sockaddr *)&addr, i & 2 ? len : sizeof(struct sockaddr_in)))
            continue; /* no IPv6 here */
        cr_assert(udp || !listen(fd, 1));
        cr_assert_eq(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
        opt.net[0].forward[0] = (struct option_forward){udp, ntohs(addr.sin6_port), 22};
        memset(&p, 0, sizeof(p));
        cr_expect_eq(paravirt_open(&p, &config), -EADDRINUSE, "%u", i);
        cr_expect_eq(p.passt[0].pid, 0);
        paravirt_close(&p);
        close(fd);
        cr_expect_eq(paravirt_open(&p, &config), 0, "%u", i);
        paravirt_close(&p);
    }
}
