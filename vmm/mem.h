/*
 * mem.h: guest RAM, one memfd mapped once; split around the 32-bit hole.
 *
 * The regions never change after mem_init(), so any thread may use mem_at(). What lies in RAM
 * is the guest's at any time: copy it out once, check, then use.
 */
#pragma once

#include <stdint.h>

#define MEM_REGIONS_MAX 2

struct mem_region {
    uint64_t gpa;
    uint64_t size;
    uint8_t *hva;       /* congruent with gpa modulo 2 MiB (1 GiB when there is that much RAM),
                           so that huge pages can be used */
    uint64_t fd_offset; /* of this region in mem.fd */
};

struct mem {
    int fd; /* memfd, owned; MAP_SHARED, so that a vfio-user server can map it too */
    unsigned nr;
    uint64_t size; /* sum of the regions; 0: nothing to undo */
    void *room;    /* the address space that the mapping was aligned in */
    uint64_t room_size;
    struct mem_region region[MEM_REGIONS_MAX];
};

/* SIZE bytes of zeroed RAM; a positive multiple of the page size, at most what the host could
 * ever give (RAM and swap). Logs its own error. */
int mem_init(struct mem *mem, uint64_t size);
void mem_fini(struct mem *mem); /* also of a zeroed struct */

/* Host address of [gpa, gpa + len), or NULL when that is not wholly inside one region. */
void *mem_at(const struct mem *mem, uint64_t gpa, uint64_t len);
