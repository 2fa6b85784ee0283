/*
 * vfio_info.h: VFIO answers that are a fixed structure and a chain of capabilities
 * (linux/vfio.h, struct vfio_info_cap_header). An answer's length is at its start (argsz), and
 * true: whoever received it has set it.
 */
#pragma once

#include "vfio/vfio.h"

/* SIZE bytes at offset AT of INFO; false when they are not all inside. */
bool vfio_info_read(const void *info, uint64_t at, void *dst, size_t size);
/* The SIZE first bytes of the capability ID in the chain that begins at FIRST. Returns its
 * offset, 0: there is none. */
uint32_t vfio_info_find_cap(const void *info, uint32_t first, uint16_t id, void *cap,
                            size_t size);
/* The region in ANSWER, a struct vfio_region_info with what follows. -EIO: impossible. */
int vfio_info_region(const void *answer, uint32_t index, struct vfio_region *region);
/* region_mmap of vfio.h, where FD is the region's. */
int vfio_info_mmap(const struct vfio_region *region, const struct vfio_area *area, int fd,
                   void *addr);
