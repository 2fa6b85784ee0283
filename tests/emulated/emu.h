/*
 * emu.h: devices that are not there, served over vfio-user (README.md).
 *
 * A device is a table: its regions, the registers in them, its interrupts; what it does is in a
 * few hooks (example.c is a complete one). The rest of this file is for the server's own files:
 * device.c (regions, interrupts, DMA), wire.c (messages and descriptors), server.c (commands),
 * main.c (command line, socket).
 *
 * One thread; a struct emu is one device and the one client that uses it. All memory that the
 * client can reach, registers included, holds whatever the client wants it to hold.
 */
#pragma once

#include <linux/vfio.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vfio/vfio_user_proto.h"
#include "vmm/util.h"

struct emu;

/* ---- what a device declares ---- */

#define EMU_RW    (VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE)
#define EMU_LEVEL (VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED)

enum {
    EMU_REGIONS_MAX = 8,
    EMU_IRQS_MAX = 5,
    EMU_VECTORS_MAX = 64,
    EMU_DOORBELLS_MAX = 8,
    EMU_MAPS_MAX = 128, /* DMA_MAPs at a time */
    EMU_FDS_MAX = 128,  /* descriptors in a message */
};

/* A register: little endian, WIDTH (1, 2, 4 or 8) bytes at OFFSET; accesses may cover a part of
 * it, or several. */
struct emu_reg {
    uint32_t offset;
    uint8_t width;
    bool doorbell; /* on_write also comes by ioeventfd, without a value: width 4 */
    const char *name;
    uint64_t reset; /* value after a reset */
    uint64_t rw;    /* bits that take what is written; the others are read-only ... */
    uint64_t w1c;   /* ... or cleared by writing 1 */
    void (*on_write)(struct emu *emu,
                     const struct emu_reg *reg); /* the new value is in place */
};

/* Parts of a region that are not registers. What is neither reads as 0. */
struct emu_area {
    uint64_t offset, size;
    enum {
        EMU_MAPPABLE, /* memory that the client may map */
        EMU_TRAPPED,  /* memory that it may not */
        EMU_ALIAS     /* shows another region, TARGET */
    } kind;
    uint8_t target;
};

struct emu_region {
    const char *name;
    uint64_t size;  /* 0: no such region */
    uint32_t flags; /* VFIO_REGION_INFO_FLAG_READ, _WRITE */
    bool memory;    /* nothing but mappable memory ... */
    bool vram;      /* ... as large as the option vram= says */
    const struct emu_area *area;
    unsigned areas;
    const struct emu_reg *reg;
    unsigned regs;
};

/* EMU_LEVEL is a level interrupt (emu_line), of which an index has one; messages (emu_message)
 * are VFIO_IRQ_INFO_EVENTFD. */
struct emu_irq {
    uint32_t count, flags;
};

struct emu_device {
    const char *name, *help;
    const char *compatible; /* a platform device's, for its driver */
    uint32_t flags;         /* VFIO_DEVICE_FLAGS_* */
    unsigned regions, irqs;
    struct emu_region region[EMU_REGIONS_MAX];
    struct emu_irq irq[EMU_IRQS_MAX];
    void (*reset)(struct emu *emu); /* after the registers have their reset values */
};

extern const struct emu_device emu_platform, emu_gpu, emu_example;

/* ---- what a device may call ---- */

/* The register, of SIZE bytes, at OFFSET of REGION. */
uint64_t emu_get(const struct emu *emu, unsigned region, uint64_t offset, unsigned size);
void emu_put(struct emu *emu, unsigned region, uint64_t offset, unsigned size, uint64_t value);
/* An access as the client's: -EINVAL where the region does not have that. */
int emu_region_access(struct emu *emu, bool write, uint32_t region, uint64_t offset, void *data,
                      uint64_t count);
/* Reads or writes the client's memory; -EFAULT where it gave none, or not for that. */
int emu_dma(struct emu *emu, bool write, uint64_t addr, void *buf, uint64_t len);
/* Sets the line of the level interrupt INDEX; the same as before is no event. */
void emu_line(struct emu *emu, unsigned index, bool high);
/* How many vectors of INDEX the client listens to, counted up to the highest. */
unsigned emu_armed(const struct emu *emu, unsigned index);
void emu_message(struct emu *emu, unsigned index, unsigned vector);
void emu_reset(struct emu *emu);

/* ---- the server ---- */

enum emu_fault {
    FAULT_NONE,
    FAULT_DIE,
    FAULT_HANG,
    FAULT_SHORT,
    FAULT_LONG,
    FAULT_HUGE,
    FAULT_BADID,
    FAULT_BADCMD,
    FAULT_FDS,
    FAULT_ERROR
};

/* Options; numbers all, for the table in main.c. */
struct emu_config {
    uint64_t fds, xfer; /* max_msg_fds, max_data_xfer_size */
    uint64_t automask, mmap, twin, message, strict, nvidia;
    uint64_t vram;
    uint64_t fault, fault_at; /* from the message of that number on, once */
    bool trace;
};

struct emu_map {
    uint64_t address, size; /* size 0: free */
    uint32_t flags;         /* VFIO_USER_DMA_F_* */
    uint8_t *hva;           /* NULL: by messages */
};

struct emu_irq_state {
    int trigger[EMU_VECTORS_MAX]; /* eventfds, -1: none */
    int unmask;
    bool masked, high;
};

struct emu_doorbell {
    unsigned region;
    const struct emu_reg *reg;
    int fd;
};

struct emu_msg {
    struct emu_msg *next;
    unsigned fds;
    bool too_many; /* descriptors */
    int fd[EMU_FDS_MAX];
    struct vfio_user_header header; /* as it is on the wire, data behind it */
    uint8_t data[];
};
_Static_assert(offsetof(struct emu_msg, data) ==
                   offsetof(struct emu_msg, header) + sizeof(struct vfio_user_header),
               "header and data are sent as one");

/* The longest message, in either direction, and the room for a reply that is made longer. */
#define EMU_PADDING         4096
#define EMU_REPLY_MAX(xfer) (MAX((xfer), 4096) + EMU_PADDING)

struct emu {
    const struct emu_device *device;
    struct emu_config config;
    int fd, twin; /* sockets; the server's own commands go by the twin where there is one */
    int stop;     /* readable: end now */
    int broken;   /* errno: what the client answered to a command of the server's ends it all */
    bool negotiated;
    uint64_t peer_fds, peer_xfer;
    uint64_t bytes;    /* received by FD */
    uint64_t commands; /* carried out, for faults */
    uint16_t next_id;
    struct emu_msg *queue; /* commands that came while a reply was awaited */
    struct emu_msg *reply; /* room for the longest */
    struct {
        uint8_t *mem;
        uint64_t size;
        int fd;
    } region[EMU_REGIONS_MAX];
    struct emu_irq_state irq[EMU_IRQS_MAX];
    struct emu_doorbell doorbell[EMU_DOORBELLS_MAX];
    unsigned doorbells;
    struct emu_map map[EMU_MAPS_MAX];
};

/* A command of the protocol; fields are "name:bytes ..." for the trace. */
struct emu_command {
    const char *name, *fields;
    uint32_t min; /* bytes of payload in a request */
    unsigned fds; /* a request may bring so many */
    /* 0 and its reply in OUT, or the errno of an error reply. What is -1 of IN's descriptors
     * afterwards has been kept. */
    int (*handle)(struct emu *emu, struct emu_msg *in, struct emu_msg *out);
};
#define EMU_COMMANDS 16
extern const struct emu_command emu_command[EMU_COMMANDS];

/* device.c. FD is a connected socket, the caller's; STOP may be -1. */
int emu_create(struct emu **out, const struct emu_device *device,
               const struct emu_config *config, int fd, int stop);
void emu_destroy(struct emu *emu);
void emu_irq_update(struct emu *emu, unsigned index);
void emu_irq_signal(int fd);

/* wire.c. All of them 0 or the negative errno that ends the session: -ECONNRESET when the
 * client left, -ECANCELED when emu->stop says so or a fault is to end it, -EPROTO. */
int emu_wait(const struct emu *emu, int fd, short events);
int emu_receive(struct emu *emu, int fd, struct emu_msg **out);
int emu_send(struct emu *emu, int fd, struct emu_msg *msg, size_t len); /* header and data */
void emu_msg_free(struct emu_msg *msg);
void emu_close(int *fd);

/* server.c. Serves the client until it leaves (0) or misbehaves. */
int emu_serve(struct emu *emu);
/* One message of DMA to the client; DATA is COUNT bytes, at most emu->peer_xfer. */
int emu_dma_message(struct emu *emu, bool write, uint64_t addr, void *data, uint64_t count);
