/*
 * options.h: the command line as one constant struct.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "boot/boot.h"
#include "vmm/cpu_list.h"
#include "vmm/cpuid.h"
#include "vmm/log.h"

#define OPTIONS_VFIO_MAX    64
#define OPTIONS_DISK_MAX    15
#define OPTIONS_NET_MAX     8
#define OPTIONS_FORWARD_MAX 16
#define OPTIONS_SHARE_MAX   8
#define OPTIONS_NAME_MAX    64

#define OPTIONS_CPUS_MAX (1 << 20) /* far above KVM's; keeps sums and ids small */

#define HUGEPAGES_DEFAULT 1 /* of the host's size */

/* How the kernel's devices are opened; one way for all of them. */
enum option_iommufd { IOMMUFD_AUTO, IOMMUFD_ON, IOMMUFD_OFF };

struct option_vfio {
    const char *text; /* as given, for messages */
    char device[256]; /* DEVICE without suboptions */
    char rom[256];    /* rom=FILE in place of the device's expansion ROM; "": its own */
    int devfn;        /* slot=S[.F], -1: chosen by the machine */
    int clique;       /* clique=N, NVIDIA's GPUDirect; -1: none */
    bool mmap;        /* mmap=off traps every access to the BARs */
    bool vga;         /* the legacy VGA ranges, too */
    bool rom_off;     /* rom=off: the guest sees none */
    bool reset;       /* reset=off: the device keeps its state */
    enum option_iommufd iommufd;
};

struct option_disk {
    char path[1024];
    bool ro;
    bool direct; /* around the host's page cache */
};

struct option_net {
    char where[120]; /* tap=NAME, passt, passt=SOCKET */
    uint8_t mac[6];  /* all 0: made from the name */
    unsigned queues; /* pairs; 0: one */
    bool no_vhost;
    struct option_forward {
        bool udp;
        uint16_t host, guest;
    } forward[OPTIONS_FORWARD_MAX];
    unsigned forwards;
};

struct option_share {
    char dir[1024]; /* or unix:SOCKET of a virtiofsd that runs */
    char tag[37];   /* what the guest mounts */
};

enum { NUMA_NONE = -1, NUMA_AUTO = -2 }; /* that of the devices */

struct options {
    const char *kernel;
    const char *initrd; /* NULL: none */
    const char *cmdline;
    uint64_t memory;
    uint64_t hugepages; /* bytes of each, or HUGEPAGES_DEFAULT; 0: ordinary pages */
    unsigned cpus;
    struct topology topology; /* of the CPUs */
    struct cpu_list pin;      /* of the host, one for each; none: not pinned */
    int numa;                 /* node of RAM and vCPUs, or: */
    struct option_vfio vfio[OPTIONS_VFIO_MAX];
    unsigned vfios;
    struct option_disk disk[OPTIONS_DISK_MAX];
    unsigned disks;
    struct option_net net[OPTIONS_NET_MAX];
    unsigned nets;
    struct option_share share[OPTIONS_SHARE_MAX];
    unsigned shares;
    uint32_t vsock_cid; /* 0: none */
    enum boot_force force;
    uint64_t flat_addr;
    enum cpuid_signature signature;
    char vendor[12];
    int debug_exit; /* port, -1: off */
    bool no_reboot;
    uint32_t stop_timeout; /* seconds from the first signal to the end; 0: none */
    const char *name;      /* the VM's; NULL: none */
    const char *control;   /* path of a socket; NULL: none */
    const char *pidfile;   /* NULL: none */
    const char *log_file;  /* NULL: standard error */
    enum log_level log_level;
};

enum options_result { OPTIONS_RUN, OPTIONS_DONE, OPTIONS_BAD };

/*
 * Fills OPTIONS from the arguments, which must outlive it. OPTIONS_DONE: --help or --version
 * was answered on standard output. OPTIONS_BAD: one line on standard error says what is wrong.
 */
enum options_result options_parse(int argc, char *const *argv, struct options *options);

/* A size such as 512M: digits and one of K, M, G, T or nothing. -EINVAL, or -ERANGE when it
 * does not fit 64 bits. */
int options_size(const char *text, uint64_t *size);
