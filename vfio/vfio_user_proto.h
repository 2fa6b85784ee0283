/*
 * vfio_user_proto.h: the messages of the vfio-user protocol, version 0.0, as they are on the
 * socket (docs/interop/vfio-user.rst in QEMU's tree). Host byte order. Shared by the client
 * (vfio_user.c) and the test server (tests/emulated).
 *
 * Every message is a header and a payload; descriptors travel beside it (SCM_RIGHTS). Regions,
 * interrupts and their flags are those of linux/vfio.h, and so are GET_REGION_INFO (struct
 * vfio_region_info and its capabilities), GET_IRQ_INFO (struct vfio_irq_info) and SET_IRQS
 * (struct vfio_irq_set, eventfds beside it and not in its data).
 */
#pragma once

#include <stdint.h>

enum vfio_user_command {
    VFIO_USER_VERSION = 1,
    VFIO_USER_DMA_MAP = 2,
    VFIO_USER_DMA_UNMAP = 3,
    VFIO_USER_DEVICE_GET_INFO = 4,
    VFIO_USER_DEVICE_GET_REGION_INFO = 5,
    VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6,
    VFIO_USER_DEVICE_GET_IRQ_INFO = 7,
    VFIO_USER_DEVICE_SET_IRQS = 8,
    VFIO_USER_REGION_READ = 9,
    VFIO_USER_REGION_WRITE = 10,
    VFIO_USER_DMA_READ = 11,  /* from the server */
    VFIO_USER_DMA_WRITE = 12, /* from the server */
    VFIO_USER_DEVICE_RESET = 13,
    VFIO_USER_REGION_WRITE_MULTI = 15,
};

struct vfio_user_header {
    uint16_t msg_id; /* of a reply: that of its command */
    uint16_t command;
    uint32_t size; /* with this header */
    uint32_t flags;
    uint32_t error; /* errno, with VFIO_USER_ERROR; such a reply is a header only */
};
_Static_assert(sizeof(struct vfio_user_header) == 16, "vfio-user message header");

#define VFIO_USER_TYPE     0xfU
#define VFIO_USER_REQUEST  0x0U
#define VFIO_USER_REPLY    0x1U
#define VFIO_USER_NO_REPLY 0x10U
#define VFIO_USER_ERROR    0x20U

/* VERSION: this, then JSON text with its NUL: {"capabilities":{...}}. */
struct vfio_user_version {
    uint16_t major, minor;
};

/* What each side may assume where the other's JSON does not say. */
#define VFIO_USER_DEFAULT_MSG_FDS   1U
#define VFIO_USER_DEFAULT_DATA_XFER (1U << 20)
#define VFIO_USER_DEFAULT_DMA_MAPS  65535U
#define VFIO_USER_DEFAULT_PGSIZES   4096ULL

/* DEVICE_GET_INFO, request and reply: struct vfio_device_info as it began. */
struct vfio_user_device_info {
    uint32_t argsz;
    uint32_t flags; /* VFIO_DEVICE_FLAGS_* */
    uint32_t num_regions, num_irqs;
};
_Static_assert(sizeof(struct vfio_user_device_info) == 16, "vfio-user DEVICE_GET_INFO");

/* DMA_MAP: at most one descriptor beside it; without one the server uses DMA_READ and
 * DMA_WRITE. */
struct vfio_user_dma_map {
    uint32_t argsz;
    uint32_t flags;  /* VFIO_USER_DMA_* */
    uint64_t offset; /* in the descriptor */
    uint64_t address, size;
};
_Static_assert(sizeof(struct vfio_user_dma_map) == 32, "vfio-user DMA_MAP");
#define VFIO_USER_DMA_F_READ  0x1U
#define VFIO_USER_DMA_F_WRITE 0x2U

/* DMA_UNMAP: exactly what was mapped; the reply has the same contents. */
struct vfio_user_dma_unmap {
    uint32_t argsz;
    uint32_t flags; /* 0 */
    uint64_t address, size;
};
_Static_assert(sizeof(struct vfio_user_dma_unmap) == 24, "vfio-user DMA_UNMAP");

/* REGION_READ: this as request; the reply is this and COUNT bytes. REGION_WRITE: this and COUNT
 * bytes; the reply is this. */
struct vfio_user_region_access {
    uint64_t offset;
    uint32_t region;
    uint32_t count;
};
_Static_assert(sizeof(struct vfio_user_region_access) == 16, "vfio-user REGION_READ/WRITE");

/* REGION_WRITE_MULTI: a count (u64), then so many of these. */
struct vfio_user_write_multi {
    uint64_t offset;
    uint32_t region;
    uint32_t count;
    uint64_t data; /* its first COUNT bytes, 1 to 8 */
};
_Static_assert(sizeof(struct vfio_user_write_multi) == 24, "vfio-user REGION_WRITE_MULTI");

/* DMA_READ: this as request; the reply is this and COUNT bytes. DMA_WRITE: this and COUNT
 * bytes; the reply is this. */
struct vfio_user_dma_access {
    uint64_t address;
    uint64_t count;
};
_Static_assert(sizeof(struct vfio_user_dma_access) == 16, "vfio-user DMA_READ/WRITE");

/* GET_REGION_IO_FDS: the reply is this and COUNT entries, their descriptors beside it. An entry
 * may grow: its size is that of the entries divided by COUNT. */
struct vfio_user_region_io_fds {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t count;
};
_Static_assert(sizeof(struct vfio_user_region_io_fds) == 16, "vfio-user GET_REGION_IO_FDS");

#define VFIO_USER_IO_FD_IOEVENTFD  0U
#define VFIO_USER_IO_FD_IOREGIONFD 1U
#define VFIO_USER_IO_FD_SHADOW     2U /* libvfio-user's ioeventfd with shadow memory */

#define VFIO_USER_IO_FD_F_DATAMATCH 0x1U /* as KVM_IOEVENTFD_FLAG_* of linux/kvm.h */
#define VFIO_USER_IO_FD_F_PIO       0x2U

struct vfio_user_io_fd {
    uint64_t offset, size;
    uint32_t fd_index; /* among the descriptors of this message */
    uint32_t type;     /* VFIO_USER_IO_FD_* */
    uint32_t flags;    /* of an ioeventfd: VFIO_USER_IO_FD_F_* */
    uint32_t padding;
    uint64_t datamatch;
};
_Static_assert(sizeof(struct vfio_user_io_fd) == 40, "vfio-user GET_REGION_IO_FDS entry");
