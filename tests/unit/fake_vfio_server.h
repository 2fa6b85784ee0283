/*
 * fake_vfio_server.h: a vfio-user server for unit tests, played at the system calls.
 *
 * The test binary is linked with -Wl,--wrap for connect, poll and the others below. Without
 * fake_server_init() they are the real ones. With it, a connection ends in a socketpair, and
 * the server at its other end runs whenever the client would wait (poll): it reads what has
 * come, answers, and the client finds the answer. Where it does not answer, poll() returns at
 * once as after a timeout. The monotonic clock goes on by FAKE_TICK_MS with each wait, so
 * nothing here depends on time. Descriptors are passed for real.
 *
 * The device is one PCI function, or what a test makes of it: regions are plain memory. One at
 * a time; Criterion runs each test in its own process.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vfio/vfio.h"
#include "vfio/vfio_user_proto.h"

#define FAKE_TICK_MS        100
#define FAKE_SERVER_LOG     4096
#define FAKE_SERVER_FDS     80
#define FAKE_SERVER_REGIONS 9
#define FAKE_SERVER_IRQS    5
#define FAKE_SERVER_VECTORS 32

/* A message as it came, and the reply that it gets. */
struct fake_message {
    struct vfio_user_header header;
    uint8_t data[8192];
    int fd[FAKE_SERVER_FDS];
    unsigned fds;
};

/* How a reply goes wrong. */
enum fake_fault {
    FAKE_GOOD,
    FAKE_SILENT,
    FAKE_HANGS_UP,
    FAKE_HALF_HEADER, /* then hangs up */
    FAKE_HALF_DATA,
    FAKE_DRIPS, /* a byte each time: slow, else good */
    FAKE_OTHER_ID,
    FAKE_OTHER_COMMAND,
    FAKE_NO_REPLY, /* the command comes back as it was */
    FAKE_ODD_TYPE,
    FAKE_SIZE_SMALL, /* less than a header */
    FAKE_SIZE_HUGE,
    FAKE_LONGER,
    FAKE_SHORTER,
    FAKE_ERROR,
    FAKE_ERROR_0, /* with no errno */
    FAKE_ERROR_DATA,
    FAKE_MANY_FDS,
    FAKE_MANY_FDS_TWICE,
    FAKE_TWICE,
    FAKE_FLOODS, /* sends commands instead */
    FAKE_FAULTS
};

struct fake_server {
    /* What it answers; see fake_server_init() for the start. */
    struct vfio_user_version version;
    const char *json; /* NULL: none */
    bool twin;        /* hands out a twin socket, beside what json says */
    struct vfio_user_device_info info;
    struct vfio_region_info region[FAKE_SERVER_REGIONS];
    uint8_t cap[1024]; /* capabilities of region cap_region, as they follow the info */
    uint32_t cap_size, cap_region;
    int region_fd[FAKE_SERVER_REGIONS]; /* -1: none */
    uint8_t *memory[FAKE_SERVER_REGIONS];
    struct vfio_user_io_fd io_fd[8]; /* of region io_region */
    unsigned io_fds, io_region;
    unsigned io_event_fds; /* descriptors beside it */
    struct vfio_irq_info irq[FAKE_SERVER_IRQS];

    /* What goes wrong: with the NTH (from 1) command COMMAND. */
    enum fake_fault fault;
    uint16_t fault_command;
    unsigned fault_nth;
    unsigned deaf; /* reads nothing while the client waits so many times */

    /* Called before a command is carried out. */
    void (*hook)(struct fake_server *server, const struct fake_message *in);

    /* What happened. */
    int fd, twin_fd; /* its ends; -1: none */
    unsigned connects;
    struct fake_record {
        uint16_t command;
        uint32_t size, flags;
        uint8_t data[96];
        unsigned fds;
    } log[FAKE_SERVER_LOG];
    unsigned nr;
    int vector[FAKE_SERVER_IRQS][FAKE_SERVER_VECTORS]; /* eventfds received; -1: none */
    int unmask_fd;
    struct vfio_user_dma_map map[8];
    int map_fd[8];
    unsigned maps, resets, polls;
    struct fake_message reply; /* of the client, to the server's own command */
    unsigned replies;

    /* The Nth counted call (from 1) fails with fail_errno; counted while counting is set. */
    bool counting;
    unsigned calls, fail_at;
    int fail_errno;
    int connect_errno; /* 0: a connection */

    /* Internal. */
    bool up;
    int64_t ticks;
    unsigned seen; /* commands of fault_command */
    uint8_t drip[sizeof(struct fake_message)];
    size_t drip_size, drip_done;
};

/* A PCI device: BAR0 of 64 KiB, mappable; BAR1 of 256 bytes, trapped; BAR2 of 16 ports; INTx, 4
 * MSI and 32 MSI-X messages (table in BAR0 at 0x8000); write_multiple and a twin socket. */
struct fake_server *fake_server_init(void);
/* Closes everything that is the server's. */
void fake_server_fini(void);
/* Forgets the records. */
void fake_server_forget(void);
/* The NTH record (from 0) of COMMAND, or NULL. */
const struct fake_record *fake_server_find(uint16_t command, unsigned nth);
unsigned fake_server_count(uint16_t command);
/* Sends a command of the server's own (SIZE bytes of payload). */
void fake_server_send(int fd, uint16_t command, uint32_t flags, const void *data, size_t size);
/* Reads what the client has sent, and answers. */
void fake_server_run(void);
/* Open descriptors of the process. */
unsigned fake_open_files(void);
