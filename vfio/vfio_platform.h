/*
 * vfio_platform.h: a passed-through platform device: registers in the guest's platform window,
 * interrupts on free inputs of its IOAPIC. It is on no bus that a guest could scan: what it has
 * and where goes into the ACPI tables.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct bus;
struct hv;
struct vfio_device;
struct vfio_platform;

#define VFIO_PLATFORM_REGIONS_MAX 16
#define VFIO_PLATFORM_IRQS_MAX    8

/* What all platform devices of a machine share, and take from. */
struct vfio_platform_room {
    uint64_t next; /* in the platform window: all below is taken */
    uint32_t gsis; /* a bit for each free input of the IOAPIC */
};

struct vfio_platform_config {
    struct hv *hv;
    struct bus *mmio;
    struct vfio_platform_room *room;
    bool mmap; /* registers straight into the guest where possible */
};

/*
 * Resets DEV, places its regions, wires its interrupts. Owns DEV from here on, also when it
 * fails (DEV is closed then). Logs its own errors.
 */
int vfio_platform_create(struct vfio_platform **out, struct vfio_device *dev,
                         const struct vfio_platform_config *config);
/* Unmapped, interrupts off, reset, closed; what it took of the room stays taken. NULL is fine.
 */
void vfio_platform_destroy(struct vfio_platform *platform);
/* For a guest reset, every vCPU paused: interrupts off, device reset, interrupts on. Everything
 * stays in its place. */
int vfio_platform_reset(struct vfio_platform *platform);
/* Removes the memory slots after KVM_RUN failed on one; accesses then trap and read all ones.
 * From a vCPU thread. True when there was one to remove. */
bool vfio_platform_drop_slots(struct vfio_platform *platform);
/* Logs one note per region and per interrupt. */
void vfio_platform_describe(const struct vfio_platform *platform);

/* What the guest has to be told: region and interrupt N, from 0; false: there is no such. */
bool vfio_platform_region(const struct vfio_platform *platform, unsigned n, uint64_t *gpa,
                          uint64_t *size);
bool vfio_platform_irq(const struct vfio_platform *platform, unsigned n, uint32_t *gsi,
                       bool *level);
/* What kind of device it is. */
const struct vfio_device *vfio_platform_device(const struct vfio_platform *platform);
