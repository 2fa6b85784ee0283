/*
 * uapi.h: Linux UAPI constants and structures that Debian 12's headers (6.1) do not have yet,
 * each with the kernel that introduced it; nothing else lives here. Files that use one include
 * this instead of (or after) the UAPI header. The prefix keeps them apart from newer headers'.
 */
#pragma once

#include <linux/ioctl.h>
#include <linux/types.h>

/* linux/pci_regs.h: Header Type bit 7 */
#define UAPI_PCI_HEADER_TYPE_MFD 0x80U /* 6.8 */

/* linux/kvm.h */
#define UAPI_KVM_EXIT_MEMORY_FAULT 39 /* 6.8 */
#define UAPI_KVM_DEV_VFIO_FILE     1  /* 6.6; the same number as KVM_DEV_VFIO_GROUP */
#define UAPI_KVM_DEV_VFIO_FILE_ADD 1
#define UAPI_KVM_DEV_VFIO_FILE_DEL 2

/* linux/iommufd.h (6.2) */
#define UAPI_IOMMU_IOAS_ALLOC       _IO(';', 0x81)
#define UAPI_IOMMU_IOAS_IOVA_RANGES _IO(';', 0x84)
#define UAPI_IOMMU_IOAS_MAP         _IO(';', 0x85)
#define UAPI_IOMMU_IOAS_UNMAP       _IO(';', 0x86)

#define UAPI_IOMMU_IOAS_MAP_FIXED_IOVA 1U
#define UAPI_IOMMU_IOAS_MAP_WRITEABLE  2U
#define UAPI_IOMMU_IOAS_MAP_READABLE   4U

struct uapi_iommu_ioas_alloc {
    __u32 size, flags, out_ioas_id;
};
_Static_assert(sizeof(struct uapi_iommu_ioas_alloc) == 12, "UAPI");

/* Its array is of pairs, start and inclusive end, like struct vfio_iova_range. */
struct uapi_iommu_ioas_iova_ranges {
    __u32 size, ioas_id, num_iovas, reserved;
    __aligned_u64 allowed_iovas, out_iova_alignment;
};
_Static_assert(sizeof(struct uapi_iommu_ioas_iova_ranges) == 32, "UAPI");

struct uapi_iommu_ioas_map {
    __u32 size, flags, ioas_id, reserved;
    __aligned_u64 user_va, length, iova;
};
_Static_assert(sizeof(struct uapi_iommu_ioas_map) == 40, "UAPI");

struct uapi_iommu_ioas_unmap {
    __u32 size, ioas_id;
    __aligned_u64 iova, length;
};
_Static_assert(sizeof(struct uapi_iommu_ioas_unmap) == 24, "UAPI");

/* linux/vfio.h (6.6); the structures as they were then, which later kernels take as well */
#define UAPI_VFIO_DEVICE_BIND_IOMMUFD             _IO(';', 100 + 18)
#define UAPI_VFIO_DEVICE_ATTACH_IOMMUFD_PT        _IO(';', 100 + 19)
#define UAPI_VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED 2U

struct uapi_vfio_device_bind_iommufd {
    __u32 argsz, flags;
    __s32 iommufd;
    __u32 out_devid;
};
_Static_assert(sizeof(struct uapi_vfio_device_bind_iommufd) == 16, "UAPI");

struct uapi_vfio_device_attach_iommufd_pt {
    __u32 argsz, flags, pt_id;
};
_Static_assert(sizeof(struct uapi_vfio_device_attach_iommufd_pt) == 12, "UAPI");
