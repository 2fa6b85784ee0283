/*
 * options.c: the command line, by one table that is the parser's input and the help's text.
 *
 * GNU style: --opt value, --opt=value, -o value, -ovalue; options and KERNEL in any order; "--"
 * ends the options. Long names are not abbreviated: a script written today must not change its
 * meaning when an option is added. Pure but for its messages; one thread.
 */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>

#include "devices/pci.h"
#include "devices/virtio/net_port.h"
#include "vmm/layout.h"
#include "vmm/options.h"
#include "vmm/util.h"

/* How a value is stored in the struct that it is of. */
struct field {
    enum { OTHER, ON, OFF, TEXT, NUMBER } kind;
    size_t offset;
    uint64_t min, max; /* of a number, which is an int or an unsigned */
};
#define FIELD(how, type, member, ...)                                  \
    {                                                                  \
        .kind = (how), .offset = offsetof(type, member), ##__VA_ARGS__ \
    }

struct option {
    char letter; /* 0: none */
    const char *name;
    const char *value; /* its name in the help; "[=...]": may be left out; NULL: takes none */
    const char *help;
    struct field field;
    const char *hint; /* where the field cannot take the value */
    /* What the field cannot do. 0, or -EINVAL after a message. VALUE may be NULL. */
    int (*set)(struct options *options, const char *value);
};

int options_size(const char *text, uint64_t *size)
{
    static const char suffix[] = "KMGT";
    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno)
        return -ERANGE;
    unsigned shift = 0;
    const char *s = *end ? strchr(suffix, toupper((unsigned char)*end)) : NULL;
    if (s) {
        shift = 10 * (unsigned)(s - suffix + 1);
        end++;
    }
    if (*end)
        return -EINVAL;
    if (v > UINT64_MAX >> shift)
        return -ERANGE;
    *size = v << shift;
    return 0;
}

/* A whole number from MIN to MAX in TEXT, in base 10 or, as 0x..., 16. */
static bool number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    bool is_hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    if (!isxdigit((unsigned char)text[is_hex ? 2 : 0]))
        return false;
    char *end;
    errno = 0;
    *out = strtoull(text, &end, is_hex ? 16 : 10);
    return !errno && !*end && *out >= min && *out <= max;
}

/* -EINVAL: VALUE is none for it. */
static int store(const struct field *field, void *of, const char *value)
{
    void *at = (char *)of + field->offset;
    uint64_t n;
    switch (field->kind) {
    case ON:
        *(bool *)at = true;
        return 0;
    case OFF:
        *(bool *)at = false;
        return strcmp(value, "off") ? -EINVAL : 0;
    case TEXT:
        *(const char **)at = value;
        return 0;
    case NUMBER:
        if (!number(value, field->min, field->max, &n))
            return -EINVAL;
        *(unsigned *)at = (unsigned)n;
        return 0;
    default:
        return -EINVAL;
    }
}

static int bad(const char *option, const char *value, const char *hint)
{
    log_error(option, "cannot use '%s': %s", value, hint);
    return -EINVAL;
}

/* ---- what a field cannot do, one setter for each option ---- */

static int set_memory(struct options *o, const char *value)
{
    int err = options_size(value, &o->memory);
    if (err == -ERANGE)
        return bad("--memory", value, "more than 64 bits can say; give a smaller size");
    if (err)
        return bad("--memory", value,
                   "not a size; give a whole number with K, M, G or T, such as 512M");
    if (o->memory < MIB || o->memory % LAYOUT_PAGE_SIZE)
        return bad("--memory", value,
                   "too small or not a whole number of 4K pages; give 1M or more");
    return 0;
}

static int set_hugepages(struct options *o, const char *value)
{
    o->hugepages = HUGEPAGES_DEFAULT;
    if (!value)
        return 0;
    if (!options_size(value, &o->hugepages) && (o->hugepages == 2 * MIB || o->hugepages == GIB))
        return 0;
    return bad("--hugepages", value, "not a size of huge pages; give 2M, 1G or no size");
}

/* ---- values that are lists: WHAT[,SUBOPTION...] ---- */

#define SUBOPTION_MAX 1024

struct suboption {
    const char *name; /* with its '=' where it has a value, which is not empty then */
    struct field field;
    /* What the field cannot do. 0, -EINVAL, or -ENAMETOOLONG. VALUE is "" for one without. */
    int (*set)(void *of, const char *value);
};

struct list {
    const char *option;
    const char *what; /* what to give where WHAT is not right */
    const char *hint; /* where a suboption is not */
    const struct suboption *row;
    size_t nr;
};

static int copy_text(char *to, size_t size, const char *value)
{
    int n = snprintf(to, size, "%s", value);
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int set_suboption(const struct list *list, void *of, const char *text)
{
    for (size_t i = 0; i < list->nr; i++) {
        const struct suboption *s = &list->row[i];
        size_t len = strlen(s->name);
        bool has_value = s->name[len - 1] == '=';
        if (strncmp(text, s->name, len) || has_value != (text[len] != 0))
            continue;
        int err = s->set ? s->set(of, text + len) : store(&s->field, of, text + len);
        if (err == -ENAMETOOLONG)
            return bad(list->option, text, "too long; give a shorter name");
        if (!err)
            return 0;
    }
    return bad(list->option, text, list->hint);
}

/* WHAT goes to the SIZE bytes at TO, each suboption by its row to OF. */
static int parse_list(const struct list *list, const char *value, char *to, size_t size,
                      void *of)
{
    size_t len = strcspn(value, ",");
    if (len == 0 || len >= size)
        return bad(list->option, value, list->what);
    snprintf(to, size, "%.*s", (int)len, value);
    for (const char *p = value + len; *p == ',';) {
        char text[SUBOPTION_MAX];
        size_t n = strcspn(++p, ",");
        if (n >= sizeof(text))
            return bad(list->option, p, "too long; give a shorter name");
        snprintf(text, sizeof(text), "%.*s", (int)n, p);
        if (set_suboption(list, of, text))
            return -EINVAL;
        p += n;
    }
    return 0;
}

static int vfio_slot(void *of, const char *value)
{
    struct option_vfio *v = of;
    unsigned slot, function = 0;
    int used = 0;
    if ((sscanf(value, "%2u.%1u%n", &slot, &function, &used) != 2 || value[used]) &&
        (sscanf(value, "%2u%n", &slot, &used) != 1 || value[used]))
        return -EINVAL;
    if (slot == 0 || slot >= PCI_SLOTS || function > 7)
        return -EINVAL;
    v->devfn = PCI_DEVFN(slot, function);
    return 0;
}

static int vfio_rom(void *of, const char *value)
{
    struct option_vfio *v = of;
    v->rom_off = !strcmp(value, "off");
    return copy_text(v->rom, sizeof(v->rom), v->rom_off ? "" : value);
}

static int vfio_iommufd(void *of, const char *value)
{
    ((struct option_vfio *)of)->iommufd = value[0] ? IOMMUFD_OFF : IOMMUFD_ON;
    return value[0] && strcmp(value, "off") ? -EINVAL : 0;
}

static const struct suboption vfio_suboptions[] = {
    {"slot=", .set = vfio_slot},
    {"mmap=", .field = FIELD(OFF, struct option_vfio, mmap)},
    {"rom=", .set = vfio_rom},
    {"vga", .field = FIELD(ON, struct option_vfio, vga)},
    {"reset=", .field = FIELD(OFF, struct option_vfio, reset)},
    {"iommufd", .set = vfio_iommufd},
    {"iommufd=", .set = vfio_iommufd},
    {"clique=",
     .field = FIELD(NUMBER, struct option_vfio, clique, .min = 0, .max = 15)}, /* four bits */
};

static int set_vfio(struct options *o, const char *value)
{
    static const struct list list = {
        "--vfio",
        "no device; give an address such as 0000:42:00.0, or unix:PATH",
        "not a suboption; give slot=S[.F] with S from 1 to 31, mmap=off, rom=FILE, rom=off, "
        "vga, reset=off, iommufd, iommufd=off or clique=N with N from 0 to 15",
        vfio_suboptions,
        ARRAY_SIZE(vfio_suboptions),
    };
    if (o->vfios == OPTIONS_VFIO_MAX)
        return bad("--vfio", value, "too many devices; give at most 64");
    struct option_vfio *v = &o->vfio[o->vfios];
    *v = (struct option_vfio){
        .text = value, .devfn = -1, .clique = -1, .mmap = true, .reset = true};
    int err = parse_list(&list, value, v->device, sizeof(v->device), v);
    o->vfios += !err;
    return err;
}

static const struct suboption disk_suboptions[] = {
    {"ro", .field = FIELD(ON, struct option_disk, ro)},
    {"direct", .field = FIELD(ON, struct option_disk, direct)},
};

static int set_disk(struct options *o, const char *value)
{
    static const struct list list = {
        "--disk",
        "no file, or too long a name; give that of a raw image",
        "not a suboption; give ro or direct",
        disk_suboptions,
        ARRAY_SIZE(disk_suboptions),
    };
    if (o->disks == OPTIONS_DISK_MAX)
        return bad("--disk", value, "too many disks; give at most 15");
    struct option_disk *d = &o->disk[o->disks];
    *d = (struct option_disk){0};
    int err = parse_list(&list, value, d->path, sizeof(d->path), d);
    o->disks += !err;
    return err;
}

static int cpus_pin(void *of, const char *value)
{
    return cpu_list_parse(value, &((struct options *)of)->pin);
}

static const struct suboption cpus_suboptions[] = {
    {"sockets=", .field = FIELD(NUMBER, struct options, topology.sockets, .min = 1,
                                .max = OPTIONS_CPUS_MAX)},
    {"cores=",
     .field = FIELD(NUMBER, struct options, topology.cores, .min = 1, .max = OPTIONS_CPUS_MAX)},
    {"threads=", .field = FIELD(NUMBER, struct options, topology.threads, .min = 1,
                                .max = OPTIONS_CPUS_MAX)},
    {"pin=", .set = cpus_pin},
};

/* Of what is not given, the first in this order makes up the number, and the others are 1. */
static int fill_topology(struct topology *t, unsigned cpus)
{
    unsigned *const part[] = {&t->cores, &t->sockets, &t->threads};
    unsigned *missing = NULL;
    uint64_t product = 1;
    for (size_t i = 0; i < ARRAY_SIZE(part); i++) {
        if (!*part[i] && !missing)
            missing = part[i];
        *part[i] = MAX(*part[i], 1U);
        product *= *part[i];
    }
    if (missing && cpus % product == 0) {
        *missing = (unsigned)(cpus / product);
        product = cpus;
    }
    return product == cpus ? 0 : -EINVAL;
}

static int set_cpus(struct options *o, const char *value)
{
    static const struct list list = {
        "--cpus",
        "not a number of vCPUs; give 1 or more",
        "not a suboption; give sockets=S, cores=C, threads=T or pin=LIST with host CPUs such "
        "as 2-5:8",
        cpus_suboptions,
        ARRAY_SIZE(cpus_suboptions),
    };
    static const struct field count =
        FIELD(NUMBER, struct options, cpus, .min = 1, .max = OPTIONS_CPUS_MAX);
    char text[16];
    o->topology = (struct topology){0};
    o->pin.nr = 0;
    int err = parse_list(&list, value, text, sizeof(text), o);
    if (err)
        return err;
    if (store(&count, o, text))
        return bad("--cpus", text, list.what);
    if (fill_topology(&o->topology, o->cpus))
        return bad("--cpus", value,
                   "sockets, cores and threads do not make up the number; give "
                   "those whose product it is");
    if (o->pin.nr && o->pin.nr < o->cpus)
        return bad("--cpus", value, "fewer CPUs of the host than vCPUs; give one for each");
    return 0;
}

static int set_numa(struct options *o, const char *value)
{
    uint64_t node;
    if (!strcmp(value, "auto")) {
        o->numa = NUMA_AUTO;
        return 0;
    }
    if (!number(value, 0, INT_MAX, &node))
        return bad("--numa", value, "not a node; give a number, or auto for the devices' one");
    o->numa = (int)node;
    return 0;
}

static int net_mac(void *of, const char *value)
{
    uint8_t *mac = ((struct option_net *)of)->mac;
    unsigned v[6];
    int used = 0;
    if (sscanf(value, "%2x:%2x:%2x:%2x:%2x:%2x%n", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5],
               &used) != 6 ||
        used != 17 || value[used] || v[0] & 1) /* of a group, not of one card */
        return -EINVAL;
    unsigned any = 0;
    for (unsigned i = 0; i < 6; i++)
        any |= mac[i] = (uint8_t)v[i];
    return any ? 0 : -EINVAL;
}

static int net_vhost(void *of, const char *value)
{
    ((struct option_net *)of)->no_vhost = true;
    return strcmp(value, "off") ? -EINVAL : 0;
}

static int net_forward(struct option_net *net, bool udp, const char *value)
{
    char host[8];
    uint64_t from, to;
    size_t len = strcspn(value, ":");
    if (net->forwards == OPTIONS_FORWARD_MAX || len >= sizeof(host) || !value[len])
        return -EINVAL;
    snprintf(host, sizeof(host), "%.*s", (int)len, value);
    if (!number(host, 1, UINT16_MAX, &from) || !number(value + len + 1, 1, UINT16_MAX, &to))
        return -EINVAL;
    net->forward[net->forwards++] =
        (struct option_forward){.udp = udp, .host = (uint16_t)from, .guest = (uint16_t)to};
    return 0;
}

static int net_tcp(void *of, const char *value)
{
    return net_forward(of, false, value);
}

static int net_udp(void *of, const char *value)
{
    return net_forward(of, true, value);
}

static const struct suboption net_suboptions[] = {
    {"mac=", .set = net_mac},
    {"queues=",
     .field = FIELD(NUMBER, struct option_net, queues, .min = 1, .max = NET_PAIRS_MAX)},
    {"vhost=", .set = net_vhost},
    {"tcp=", .set = net_tcp},
    {"udp=", .set = net_udp},
};

static int set_net(struct options *o, const char *value)
{
    static const struct list list = {
        "--net",
        "no network, or too long a name; give tap=NAME, passt or passt=SOCKET",
        "not a suboption; give mac=52:54:00:..., for a tap queues=N with N from 1 to 4 or "
        "vhost=off, for passt up to 16 of tcp=HOST:GUEST and udp=HOST:GUEST, with port numbers",
        net_suboptions,
        ARRAY_SIZE(net_suboptions),
    };
    if (o->nets == OPTIONS_NET_MAX)
        return bad("--net", value, "too many networks; give at most 8");
    struct option_net *n = &o->net[o->nets];
    *n = (struct option_net){0};
    if (parse_list(&list, value, n->where, sizeof(n->where), n))
        return -EINVAL;
    bool tap = !strncmp(n->where, "tap=", 4);
    bool running = !strncmp(n->where, "passt=", 6);
    size_t name = strlen(n->where) - (tap ? 4 : 6);
    if (!tap && !running && strcmp(n->where, "passt"))
        return bad("--net", value, list.what);
    if (tap && (name < 1 || name >= IFNAMSIZ))
        return bad("--net", value, "not a tap's name; give tap=NAME with 1 to 15 characters");
    if (running && !name)
        return bad("--net", value, "no socket; give passt=SOCKET, or passt to have it started");
    if (!tap && (n->queues || n->no_vhost))
        return bad("--net", value, "queues= and vhost= are for taps; leave them out");
    if ((tap || running) && n->forwards)
        return bad("--net", value,
                   "tcp= and udp= are for a passt that is started here; leave them out");
    o->nets++;
    return 0;
}

/* The tag is behind the last ':'. */
static int set_share(struct options *o, const char *value)
{
    struct option_share *s = &o->share[o->shares];
    const char *tag = strrchr(value, ':');
    if (o->shares == OPTIONS_SHARE_MAX)
        return bad("--share", value, "too many folders; give at most 8");
    if (!tag || tag == value || strchr(value, ',') ||
        copy_text(s->tag, sizeof(s->tag), tag + 1) || !s->tag[0])
        return bad("--share", value,
                   "not DIR:TAG or unix:SOCKET:TAG; give a tag of 1 to 36 bytes, and no comma");
    int n = snprintf(s->dir, sizeof(s->dir), "%.*s", (int)(tag - value), value);
    if (n < 0 || (size_t)n >= sizeof(s->dir))
        return bad("--share", value, "too long; give a shorter path");
    o->shares++;
    return 0;
}

static int set_entry(struct options *o, const char *value)
{
    static const struct {
        const char *name;
        enum boot_force force;
        uint64_t addr;
    } mode[] = {
        {"real", BOOT_REAL, LAYOUT_FLAT},
        {"protected", BOOT_PROTECTED, LAYOUT_HIGH_START},
        {"long", BOOT_LONG, LAYOUT_HIGH_START},
    };
    size_t len = strcspn(value, "@");
    for (size_t i = 0; i < ARRAY_SIZE(mode); i++) {
        if (len != strlen(mode[i].name) || strncmp(value, mode[i].name, len))
            continue;
        o->force = mode[i].force;
        o->flat_addr = mode[i].addr;
        if (value[len] && !number(value + len + 1, 0, UINT32_MAX, &o->flat_addr))
            return bad("--entry", value,
                       "not an address below 4 GiB; give one such as 0x100000");
        return 0;
    }
    return bad("--entry", value,
               "not a mode; give real, protected or long, each with or without @ADDR");
}

static int set_cpuid(struct options *o, const char *value)
{
    size_t len;
    if (!strcmp(value, "hidden")) {
        o->signature = CPUID_HIDDEN;
    } else if (!strcmp(value, "kvm")) {
        o->signature = CPUID_KVM;
    } else if (!strncmp(value, "vendor=", 7) && (len = strlen(value + 7)) > 0 &&
               len <= sizeof(o->vendor)) {
        o->signature = CPUID_VENDOR;
        memset(o->vendor, 0, sizeof(o->vendor));
        memcpy(o->vendor, value + 7, len);
    } else {
        return bad("--cpuid", value,
                   "not a signature; give hidden, kvm, or vendor=TEXT with 1 to 12 characters");
    }
    return 0;
}

/* It goes into messages and JSON as it is. */
static int set_name(struct options *o, const char *value)
{
    size_t len = strlen(value);
    for (const char *c = value; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
            len = 0;
    }
    if (len < 1 || len > OPTIONS_NAME_MAX)
        return bad("--name", value,
                   "not a name; give 1 to 64 letters, digits, dots, dashes or underscores");
    o->name = value;
    return 0;
}

static int set_log_level(struct options *o, const char *value)
{
    static const char *const name[] = {"error", "warn", "note", "debug"};
    for (size_t i = 0; i < ARRAY_SIZE(name); i++) {
        if (!strcmp(value, name[i])) {
            o->log_level = (enum log_level)i;
            return 0;
        }
    }
    return bad("--log-level", value, "not a level; give error, warn, note or debug");
}

static const struct option table[] = {
    {'v', "vfio", "DEVICE[,OPT...]", .set = set_vfio,
     .help = "pass a device through: 0000:42:00.0, 42:00.0, 42:00 (all functions of the\n"
             "card), 10de:1b80[:COUNT] (by ID, the first free ones), a sysfs path, the\n"
             "UUID of a mediated device, mdev:PARENT/TYPE (made for the VM), or\n"
             "unix:PATH of a vfio-user server;\n"
             "OPT: slot=S[.F] (guest slot), mmap=off (trap every access), rom=FILE or\n"
             "rom=off (its expansion ROM), vga (the legacy VGA ranges), reset=off (keep\n"
             "its state), iommufd or iommufd=off (which of the kernel's interfaces),\n"
             "clique=N (NVIDIA's GPUDirect peers, 0 to 15). Repeatable"},
    {'d', "disk", "FILE[,ro][,direct]", .set = set_disk,
     .help = "virtio disk: a raw image or a block device; ro (read only), direct (around\n"
             "the host's page cache). Repeatable"},
    {'n', "net", "WHERE[,OPT...]", .set = set_net,
     .help = "virtio network card; WHERE: tap=NAME (a tap of the host's), passt (started\n"
             "here; no root needed) or passt=SOCKET (one that runs);\n"
             "OPT: mac=ADDRESS, queues=N (tap, up to 4), vhost=off (tap: not by the\n"
             "kernel), tcp=HOST:GUEST and udp=HOST:GUEST (passt: the host's port leads to\n"
             "the guest's). Repeatable"},
    {0, "share", "DIR:TAG", .set = set_share,
     .help = "share directory DIR by virtiofsd (started if need be; unix:SOCKET:TAG: one\n"
             "that runs); the guest mounts it as TAG, of type virtiofs. Repeatable"},
    {0, "vsock", "CID",
     .field = FIELD(NUMBER, struct options, vsock_cid, .min = 3, .max = UINT32_MAX - 1),
     .hint = "not a guest's address; give a number from 3 on",
     .help = "sockets between host and guest, whose address is CID, from 3 on"},
    {'m', "memory", "SIZE", .set = set_memory, .help = "guest RAM, with K, M, G or T (512M)"},
    {0, "hugepages", "[=2M|1G]", .set = set_hugepages,
     .help = "RAM on huge pages that were reserved (of the host's size)"},
    {'c', "cpus", "N[,OPT...]", .set = set_cpus,
     .help = "vCPUs (1); OPT: sockets=S, cores=C and threads=T (cores in a socket, threads\n"
             "in a core), pin=LIST (host CPUs, one for each: 2-5:8)"},
    {0, "numa", "auto|NODE", .set = set_numa,
     .help = "RAM and vCPUs on one of the host's nodes; auto: the devices'"},
    {'i', "initrd", "FILE", .field = FIELD(TEXT, struct options, initrd),
     .help = "initial RAM disk"},
    {'a', "cmdline", "TEXT", .field = FIELD(TEXT, struct options, cmdline),
     .help = "kernel command line (console=ttyS0)"},
    {0, "entry", "MODE[@ADDR]", .set = set_entry,
     .help = "load KERNEL as a flat binary and enter it in this mode:\n"
             "real (at 0x10000), protected or long (at 0x100000)"},
    {0, "cpuid", "WHAT", .set = set_cpuid,
     .help = "hypervisor signature: hidden, kvm or vendor=TEXT (hidden)"},
    {0, "debug-exit", "PORT",
     .field = FIELD(NUMBER, struct options, debug_exit, .min = 0, .max = UINT16_MAX),
     .hint = "not a port; give a number up to 0xffff, such as 0xf4",
     .help = "a write of V to PORT ends the VM with status (V << 1) | 1"},
    {0, "no-reboot", NULL, .field = FIELD(ON, struct options, no_reboot),
     .help = "a guest reset ends the VM with status 6"},
    {0, "stop-timeout", "SECONDS",
     .field = FIELD(NUMBER, struct options, stop_timeout, .min = 0, .max = UINT32_MAX),
     .hint = "not a number of seconds; give 0 or more",
     .help = "how long the guest may take to power off after a signal (60)"},
    {0, "control", "PATH", .field = FIELD(TEXT, struct options, control),
     .help = "a socket for minivmm ctl"},
    {0, "name", "NAME", .set = set_name,
     .help = "the VM's name, in messages and in the list of processes"},
    {0, "pidfile", "FILE", .field = FIELD(TEXT, struct options, pidfile),
     .help = "the process's number, from the guest's start to the end"},
    {0, "log-file", "FILE", .field = FIELD(TEXT, struct options, log_file),
     .help = "messages are appended to FILE, not written to\nstandard error"},
    {0, "log-level", "LEVEL", .set = set_log_level,
     .help = "error, warn, note or debug (note)"},
    {'h', "help", NULL, .help = "print this"},
    {'V', "version", NULL, .help = "print the version"},
};

static bool may_be_alone(const struct option *o)
{
    return o->value && o->value[0] == '[';
}

/* One row of the table, the help's text from column 32 on. */
static void print_option(const struct option *o)
{
    char left[64];
    snprintf(left, sizeof(left), "  %c%c%c --%s%s%s", o->letter ? '-' : ' ',
             o->letter ? o->letter : ' ', o->letter ? ',' : ' ', o->name,
             may_be_alone(o) ? "" : " ", o->value ? o->value : "");
    printf("%-31s", left);
    if (strlen(left) >= 31)
        printf("\n%31s", "");
    for (const char *c = o->help; *c; c++) {
        putchar(*c);
        if (*c == '\n')
            printf("%31s", "");
    }
    putchar('\n');
}

static void print_help(void)
{
    printf(
        "Usage: minivmm [OPTIONS] KERNEL\n"
        "       minivmm host list|check|bind|unbind [DEVICE...] (see minivmm host --help)\n"
        "       minivmm ctl PATH COMMAND (see minivmm ctl --help)\n\n"
        "Boots KERNEL (bzImage, ELF, Multiboot, or a flat binary) in a KVM guest, with real\n"
        "devices passed through by VFIO. The console is standard input and output; Ctrl-A x\n"
        "quits.\n\n");
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        print_option(&table[i]);
    printf(
        "\nExit status: 0 the guest powered off or the user quit, 2 bad command line,\n"
        "4 could not start, 6 guest reset with --no-reboot, 8 guest crashed (triple fault),\n"
        "10 KVM could not go on, 12 a passed-through device failed or was asked back,\n"
        "128+N ended by signal N. See minivmm(1).\n");
}

/* Answers --help and --version, or sets one option. VALUE may be NULL. */
static enum options_result apply(const struct option *o, const char *value, struct options *out)
{
    char name[32];
    if (o->set)
        return o->set(out, value) ? OPTIONS_BAD : OPTIONS_RUN;
    if (o->letter == 'h') {
        print_help();
        return OPTIONS_DONE;
    }
    if (o->letter == 'V') {
        printf("minivmm " MINIVMM_VERSION "\n");
        return OPTIONS_DONE;
    }
    if (!store(&o->field, out, value ? value : ""))
        return OPTIONS_RUN;
    snprintf(name, sizeof(name), "--%s", o->name);
    bad(name, value, o->hint);
    return OPTIONS_BAD;
}

static const struct option *find_long(const char *name, size_t len)
{
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (strlen(table[i].name) == len && !strncmp(table[i].name, name, len))
            return &table[i];
    }
    return NULL;
}

static const struct option *find_letter(char letter)
{
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (letter && table[i].letter == letter)
            return &table[i];
    }
    return NULL;
}

/* One argument that begins with '-'; *NEXT is the argument after it, consumed when it is a
 * value. */
static enum options_result parse_option(const char *arg, char *const **next,
                                        struct options *out)
{
    bool is_long = arg[1] == '-';
    const char *value = NULL;
    const struct option *o;
    if (is_long) {
        size_t len = strcspn(arg + 2, "=");
        o = find_long(arg + 2, len);
        value = arg[2 + len] ? arg + 3 + len : NULL;
    } else {
        o = find_letter(arg[1]);
        value = arg[1] && arg[2] ? arg + 2 : NULL;
    }
    if (!o) {
        log_error(arg, "cannot use option: unknown; see minivmm --help");
        return OPTIONS_BAD;
    }
    if (!o->value && value) {
        log_error(arg, "cannot use option: --%s takes no value; leave it out", o->name);
        return OPTIONS_BAD;
    }
    if (o->value && !value && !may_be_alone(o)) {
        value = **next;
        if (!value) {
            log_error(arg, "cannot use option: its value is missing; give --%s %s", o->name,
                      o->value);
            return OPTIONS_BAD;
        }
        (*next)++;
    }
    return apply(o, value, out);
}

/* The one argument that is not an option. */
static enum options_result set_kernel(struct options *o, const char *arg)
{
    static const char *const command[] = {"host", "ctl", "trace-report"};
    for (size_t i = 0; i < ARRAY_SIZE(command); i++) {
        if (!strcmp(arg, command[i])) {
            log_error(arg,
                      "cannot run command: it comes first, and this version has only host and "
                      "ctl; give a kernel file of that name as ./%s",
                      arg);
            return OPTIONS_BAD;
        }
    }
    if (o->kernel) {
        log_error(arg, "cannot boot a second kernel: %s was given before; give one", o->kernel);
        return OPTIONS_BAD;
    }
    o->kernel = arg;
    return OPTIONS_RUN;
}

enum options_result options_parse(int argc, char *const *argv, struct options *options)
{
    *options = (struct options){
        .memory = 512 * MIB,
        .cpus = 1,
        .topology = {1, 1, 1},
        .numa = NUMA_NONE,
        .cmdline = "console=ttyS0",
        .debug_exit = -1,
        .stop_timeout = 60,
        .log_level = LOG_NOTE,
    };
    bool only_kernel = false;
    char *const *end = argv + argc;
    for (char *const *p = argv + 1; p < end;) {
        const char *arg = *p++;
        enum options_result r = OPTIONS_RUN;
        if (!only_kernel && !strcmp(arg, "--"))
            only_kernel = true;
        else if (!only_kernel && arg[0] == '-')
            r = parse_option(arg, &p, options);
        else
            r = set_kernel(options, arg);
        if (r != OPTIONS_RUN)
            return r;
    }
    if (!options->kernel) {
        log_error(NULL, "cannot boot: no kernel given; see minivmm --help");
        return OPTIONS_BAD;
    }
    return OPTIONS_RUN;
}
