/*
 * vfio_p2p.h: BARs as targets of other passed-through devices' DMA (peer to peer): a thread of
 * its own maps the direct parts of every BAR that the guest can use, at the guest's addresses,
 * in an IOMMU that the devices share. A failure is a note and costs nothing but that.
 *
 * Lock order: the PCI bus's lock, vfio_pci.lock, the one in here.
 */
#pragma once

#include <stdint.h>

struct vfio_iommu;
struct vfio_p2p;
struct vfio_view;

/* SETTLE: nanoseconds after the last change of a BAR before any is mapped; firmware and guest
 * kernels move BARs several times. Negative errno, with no message. */
int vfio_p2p_create(struct vfio_p2p **out, struct vfio_iommu *iommu, int64_t settle);
/* Ends the thread, after the chunk in progress; what is mapped stays until its BAR goes. */
void vfio_p2p_stop(struct vfio_p2p *p2p);
/* After all BARs have gone, before RAM is unmapped and devices are closed. NULL is fine. */
void vfio_p2p_destroy(struct vfio_p2p *p2p);

/*
 * The guest can use the BAR behind VIEW from now on, or not any more. Add returns at once.
 * Remove returns when nothing of the BAR is mapped, after the chunk in progress if it is one of
 * its own: call it before the device stops to answer there. VIEW's areas and address stay as
 * they are in between. Any thread. Of no P2P (NULL), or of a VIEW that was not added, nothing
 * happens.
 */
void vfio_p2p_add(struct vfio_p2p *p2p, struct vfio_view *view);
void vfio_p2p_remove(struct vfio_p2p *p2p, const struct vfio_view *view);

/* How many bytes of BARs are mapped now; 0 of no P2P. */
uint64_t vfio_p2p_bytes(struct vfio_p2p *p2p);
