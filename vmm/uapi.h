/*
 * uapi.h: Linux UAPI constants that Debian 12's headers (6.1) do not have yet, each with the
 * kernel that introduced it; nothing else lives here. Files that use one include this instead
 * of (or after) the UAPI header.
 */
#pragma once

/* linux/pci_regs.h: Header Type bit 7 */
#define UAPI_PCI_HEADER_TYPE_MFD 0x80U /* 6.8 */

/* linux/kvm.h */
#define UAPI_KVM_EXIT_MEMORY_FAULT 39 /* 6.8 */
#define UAPI_KVM_DEV_VFIO_FILE     1  /* 6.6; the same number as KVM_DEV_VFIO_GROUP */
#define UAPI_KVM_DEV_VFIO_FILE_ADD 1
#define UAPI_KVM_DEV_VFIO_FILE_DEL 2
