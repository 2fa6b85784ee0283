/*
 * mem.h: guest RAM, one memfd mapped once; split around the 32-bit hole.
 *
 * The regions never change after mem_init(), so any thread may use mem_at(). What lies in RAM
 * is the guest's at any time: copy it out once, check, then use.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct cpu_list;

#define MEM_REGIONS_MAX 2

struct mem_region {
    uint64_t gpa;
    uint64_t size;
    uint8_t *hva;       /* congruent with gpa modulo 2 MiB (1 GiB when there is that much RAM),
                           so that huge pages can be used */
    uint64_t fd_offset; /* of this region in mem.fd */
};

/* What RAM is made of. All zero: ordinary pages as they are touched, transparent huge ones
 * where the host has them, wherever the host likes. */
struct mem_backing {
    uint64_t huge; /* bytes of each reserved huge page (hugetlb): 2 MiB or 1 GiB; 0: none */
    bool on_node;  /* of NODE's memory; of huge pages no other is taken */
    unsigned node;
    bool populate; /* every page before a device's DMA pins it: mem_take(). Huge ones at once */
    /* The node's, which outlive RAM: they take its pages. None or NULL: any CPU does. */
    const struct cpu_list *near;
};

struct mem {
    int fd; /* memfd, owned; MAP_SHARED, so that a vfio-user server can map it too */
    unsigned nr;
    uint64_t size; /* sum of the regions; 0: nothing to undo */
    void *room;    /* the address space that the mapping was aligned in */
    uint64_t room_size;
    struct mem_backing backing;
    struct mem_region region[MEM_REGIONS_MAX];
};

/* SIZE bytes of zeroed RAM; a positive multiple of the page size, at most what the host could
 * ever give (RAM and swap). Logs its own error. */
int mem_init(struct mem *mem, uint64_t size);
int mem_init_backed(struct mem *mem, uint64_t size, const struct mem_backing *backing);
void mem_fini(struct mem *mem); /* also of a zeroed struct */

/* Due before DMA pins RAM, when all that could keep its device out has been looked at. What is
 * there already costs little. Logs its own error. */
int mem_take(const struct mem *mem);

/* Host address of [gpa, gpa + len), or NULL when that is not wholly inside one region. */
void *mem_at(const struct mem *mem, uint64_t gpa, uint64_t len);

/* ---- mem_populate.c ---- */

/* Takes every page of RAM, by as many threads as help. From two seconds on it says how far it
 * is. Nothing of a failure is undone, and a page that is missing then would be a SIGBUS: start
 * no guest. Logs its own error. */
int mem_populate(const struct mem *mem);
