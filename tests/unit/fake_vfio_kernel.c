/*
 * fake_vfio_kernel.c: see fake_vfio_kernel.h.
 */
#include "tests/unit/fake_vfio_kernel.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "vmm/uapi.h"

typedef int scan_filter(const struct dirent *);
typedef int scan_compare(const struct dirent **, const struct dirent **);

int __real_open(const char *path, int flags, ...);
int __real_close(int fd);
int __real_ioctl(int fd, unsigned long request, ...);
int __real_access(const char *path, int mode);
int __real_mkdir(const char *path, mode_t mode);
int __real_unlink(const char *path);
ssize_t __real_readlink(const char *path, char *buf, size_t size);
char *__real_realpath(const char *path, char *out);
int __real_scandir(const char *path, struct dirent ***out, scan_filter *f, scan_compare *c);
int __wrap_open(const char *path, int flags, ...);
int __wrap_close(int fd);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_access(const char *path, int mode);
int __wrap_mkdir(const char *path, mode_t mode);
int __wrap_unlink(const char *path);
ssize_t __wrap_readlink(const char *path, char *buf, size_t size);
char *__wrap_realpath(const char *path, char *out);
int __wrap_scandir(const char *path, struct dirent ***out, scan_filter *f, scan_compare *c);

static struct fake_vfio_kernel fake;
static bool active;
static char root[] = "/tmp/minivmm-unit-XXXXXX";
static int log_fd, stderr_fd;

/* ---- the machine's files ---- */

static const char *translate(const char *path, char *buf)
{
    static const char *const played[] = {"/sys",        "/proc",      "/run/",
                                         "/usr/share/", "/dev/vfio",  "/dev/nvme",
                                         "/dev/kvm",    "/dev/iommu", "/dev/vhost"};
    for (size_t i = 0; i < sizeof(played) / sizeof(played[0]); i++) {
        if (active && !strncmp(path, played[i], strlen(played[i]))) {
            snprintf(buf, PATH_MAX, "%s%s", root, path);
            return buf;
        }
    }
    return path;
}

static void make_parents(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        __real_mkdir(path, 0755);
        *slash = '/';
    }
}

void fake_file(const char *path, const char *text)
{
    char buf[PATH_MAX];
    snprintf(buf, sizeof(buf), "%s%s", root, path);
    make_parents(buf);
    if (!text) {
        __real_mkdir(buf, 0755);
        return;
    }
    FILE *file = fopen(buf, "we");
    cr_assert(file);
    fputs(text, file);
    fclose(file);
}

void fake_link(const char *path, const char *target)
{
    char buf[PATH_MAX];
    snprintf(buf, sizeof(buf), "%s%s", root, path);
    make_parents(buf);
    __real_unlink(buf);
    cr_assert_eq(symlink(target, buf), 0, "%s", path);
}

static void link_driver(const char *parent, const char *bus, const char *name,
                        const char *driver)
{
    char path[256], target[256];
    snprintf(path, sizeof(path), "/sys/devices/%s/%s/driver", parent, name);
    snprintf(target, sizeof(target), "../../../bus/%s/drivers/%s", bus, driver);
    fake_link(path, target);
    snprintf(path, sizeof(path), "/sys/devices/%s/%s/vfio-dev", parent, name);
    if (!fake.cdevs)
        return;
    fake_remove(path);
    if (!strstr(driver, "vfio"))
        return;
    snprintf(path, sizeof(path), "/sys/devices/%s/%s/vfio-dev/vfio%u", parent, name,
             fake.cdev_nr++);
    fake_file(path, NULL);
}

static void make_device(const char *parent, const char *bus, const char *name, int group,
                        const char *driver)
{
    char path[256], target[256];
    snprintf(path, sizeof(path), "/sys/devices/%s/%s", parent, name);
    fake_file(path, NULL);
    snprintf(path, sizeof(path), "/sys/devices/%s/%s/subsystem", parent, name);
    snprintf(target, sizeof(target), "../../../bus/%s", bus);
    fake_link(path, target);
    snprintf(path, sizeof(path), "/sys/bus/%s/devices/%s", bus, name);
    snprintf(target, sizeof(target), "../../../devices/%s/%s", parent, name);
    fake_link(path, target);
    if (driver)
        link_driver(parent, bus, name, driver);
    if (group < 0)
        return;
    snprintf(path, sizeof(path), "/sys/devices/%s/%s/iommu_group", parent, name);
    snprintf(target, sizeof(target), "../../../kernel/iommu_groups/%d", group);
    fake_link(path, target);
    snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%d/devices/%s", group, name);
    snprintf(target, sizeof(target), "../../../../devices/%s/%s", parent, name);
    fake_link(path, target);
}

void fake_sysfs_driver(const char *name, const char *driver)
{
    link_driver("pci0000:40", "pci", name, driver);
}

void fake_sysfs_device(const char *name, int group, const char *driver)
{
    make_device("pci0000:40", "pci", name, group, driver);
}

void fake_sysfs_platform(const char *name, int group, const char *driver,
                         const char *compatible)
{
    char path[256];
    make_device("platform", "platform", name, group, driver);
    snprintf(path, sizeof(path), "/sys/devices/platform/%s/of_node/compatible", name);
    fake_file(path, compatible);
}

/* ---- life ---- */

static struct vfio_iommu_type1_info iommu_answer = {
    .flags = VFIO_IOMMU_INFO_PGSIZES,
    .iova_pgsizes = 0x40201000,
};

struct fake_vfio_kernel *fake_vfio_kernel_init(void)
{
    fake = (struct fake_vfio_kernel){
        .api_version = VFIO_API_VERSION,
        .type1v2 = true,
        .group_flags = VFIO_GROUP_FLAGS_VIABLE,
        .device_flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
        .regions = FAKE_REGIONS,
        .irqs = VFIO_PCI_NUM_IRQS,
        .iommu = {&iommu_answer, sizeof(iommu_answer), 0},
        .irq = {.flags = VFIO_IRQ_INFO_EVENTFD, .count = 1},
        .iova = {{0, UINT64_MAX}},
        .iovas = 1,
        .iova_alignment = 0x1000,
    };
    strcpy(root, "/tmp/minivmm-unit-XXXXXX");
    cr_assert(mkdtemp(root));
    fake_sysfs_device(FAKE_DEVICE, FAKE_GROUP, "vfio-pci");
    fake_link("/proc/sys/kernel/random/uuid", "/proc/sys/kernel/random/uuid");
    stderr_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    log_fd = memfd_create("log", MFD_CLOEXEC);
    cr_assert(stderr_fd >= 0 && log_fd >= 0);
    dup2(log_fd, STDERR_FILENO);
    active = true;
    return &fake;
}

void fake_iommufd(void)
{
    fake.cdevs = true;
    fake_sysfs_driver(FAKE_DEVICE, "vfio-pci");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void fake_remove(const char *path)
{
    char buf[PATH_MAX];
    snprintf(buf, sizeof(buf), "%s%s", root, path);
    nftw(buf, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void fake_vfio_kernel_fini(void)
{
    if (!active)
        return;
    active = false;
    dup2(stderr_fd, STDERR_FILENO);
    __real_close(stderr_fd);
    __real_close(log_fd);
    fake_remove("");
}

static const char *read_log(void)
{
    static char text[8192];
    ssize_t len = pread(log_fd, text, sizeof(text) - 1, 0);
    text[len < 0 ? 0 : len] = '\0';
    return text;
}

const char *fake_log(void)
{
    const char *text = read_log();
    cr_assert_eq(ftruncate(log_fd, 0), 0);
    lseek(log_fd, 0, SEEK_SET);
    return text;
}

void fake_log_await(const char *word)
{
    while (!fake_log_lines(read_log(), word))
        sched_yield();
}

unsigned fake_log_lines(const char *log, const char *word)
{
    unsigned lines = 0;
    while (*log) {
        size_t len = strcspn(log, "\n");
        lines += memmem(log, len, word, strlen(word)) != NULL;
        log += len + (log[len] == '\n');
    }
    return lines;
}

/* ---- VFIO ---- */

static bool fails(void)
{
    if (++fake.calls != fake.fail_at)
        return false;
    errno = fake.fail_errno;
    return true;
}

static int error(int err)
{
    errno = err;
    return -1;
}

__attribute__((format(printf, 1, 2))) static void trace(const char *fmt, ...)
{
    size_t len = strlen(fake.trace);
    va_list args;
    va_start(args, fmt);
    vsnprintf(fake.trace + len, sizeof(fake.trace) - len, fmt, args);
    va_end(args);
}

static int new_fd(enum fake_kind kind, int number)
{
    int fd = memfd_create("vfio", MFD_CLOEXEC);
    cr_assert(fd >= 0 && fd < FAKE_FDS);
    if (kind == FAKE_DEVICE_FD) {
        /* Ends 256 bytes into region 7: a read there is short. */
        cr_assert_eq(ftruncate(fd, (7LL << 40) + 256), 0);
        if (fake.config)
            cr_assert_eq(pwrite(fd, fake.config, 256, 7LL << 40), 256);
    }
    fake.kind[fd] = kind;
    fake.number[fd] = number;
    fake.joined[fd] = fake.is_cdev[fd] = fake.attached[fd] = false;
    fake.live++;
    return fd;
}

static bool is_open(enum fake_kind kind, int number)
{
    for (int fd = 0; fd < FAKE_FDS; fd++) {
        if (fake.kind[fd] == kind && fake.number[fd] == number)
            return true;
    }
    return false;
}

static bool hv_knows(int fd)
{
    bool known = false;
    for (int i = 0; fake.hv && i < FAKE_HV_MAX; i++)
        known |= fake.hv->vfio_file[i] == fd;
    return known;
}

/* Behind /dev/. A device's node may be opened by several, which then cannot all bind it. */
static int open_vfio(const char *name, int flags)
{
    static const char cdev[] = "vfio/devices/vfio";
    bool first = !strcmp(name, "vfio/vfio") || !strcmp(name, "iommu");
    trace("open %s\n", strncmp(name, "vfio/", 5) ? name : name + 5);
    fake.cloexec_missing |= !(flags & O_CLOEXEC);
    if (fake.open_errno[!first])
        return error(fake.open_errno[!first]);
    if (first)
        return new_fd(name[0] == 'i' ? FAKE_IOMMUFD : FAKE_CONTAINER, 0);
    if (!strncmp(name, cdev, sizeof(cdev) - 1)) {
        const char *digits = name + sizeof(cdev) - 1;
        if (*digits < '0' || *digits > '9')
            return error(ENOENT);
        int fd = new_fd(FAKE_DEVICE_FD, atoi(digits));
        fake.is_cdev[fd] = true;
        return fd;
    }
    int number = atoi(name + 5);
    if (name[5] < '0' || name[5] > '9')
        return error(ENOENT);
    if (is_open(FAKE_GROUP_FD, number))
        return error(EBUSY);
    return new_fd(FAKE_GROUP_FD, number);
}

/* The protocol of all calls that answer with capabilities. */
static int answer(const struct fake_answer *a, uint32_t *arg)
{
    uint32_t room = arg[0];
    uint32_t want = a->grows ? room + a->grows : a->len;
    if (!a->bytes)
        return error(EINVAL);
    memcpy(arg, a->bytes, room < a->len ? room : a->len);
    arg[0] = want > room ? want : room;
    return 0;
}

static unsigned count_joined(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < FAKE_FDS; fd++)
        n += fake.kind[fd] == FAKE_GROUP_FD && fake.joined[fd];
    return n;
}

static int map_dma(const struct vfio_iommu_type1_dma_map *map)
{
    trace("MAP_DMA\n");
    if (!fake.iommu_set || map->argsz != sizeof(*map) || fake.maps == 8)
        return error(EINVAL);
    if (fake.map_errno)
        return error(fake.map_errno);
    fake.map[fake.maps++] = *map;
    return 0;
}

static int unmap_dma(struct vfio_iommu_type1_dma_unmap *unmap)
{
    trace("UNMAP_DMA\n");
    if (!fake.iommu_set || unmap->argsz != sizeof(*unmap))
        return error(EINVAL);
    for (unsigned i = 0; i < fake.maps; i++) {
        if (fake.map[i].iova == unmap->iova && fake.map[i].size == unmap->size) {
            fake.map[i] = fake.map[--fake.maps];
            return 0;
        }
    }
    unmap->size = 0;
    return 0;
}

static int container_ioctl(unsigned long request, unsigned long arg)
{
    switch (request) {
    case VFIO_GET_API_VERSION:
        trace("GET_API_VERSION\n");
        return fake.api_version;
    case VFIO_CHECK_EXTENSION:
        trace("CHECK_EXTENSION %lu\n", arg);
        return arg == VFIO_TYPE1v2_IOMMU && fake.type1v2;
    case VFIO_SET_IOMMU:
        trace("SET_IOMMU %lu\n", arg);
        if (!count_joined() || fake.iommu_set)
            return error(EINVAL);
        fake.iommu_set = !fake.set_iommu_errno;
        return fake.set_iommu_errno ? error(fake.set_iommu_errno) : 0;
    case VFIO_IOMMU_GET_INFO:
        trace("GET_INFO\n");
        return fake.iommu_set ? answer(&fake.iommu, (uint32_t *)arg) : error(EINVAL);
    case VFIO_IOMMU_MAP_DMA:
        return map_dma((const void *)arg);
    case VFIO_IOMMU_UNMAP_DMA:
        return unmap_dma((void *)arg);
    default:
        return error(ENOTTY);
    }
}

/* ---- iommufd ---- */

#define IOAS 5U /* as if there were other objects */

static int ioas_alloc(struct uapi_iommu_ioas_alloc *ioas)
{
    trace("IOAS_ALLOC\n");
    ioas->out_ioas_id = IOAS;
    return ioas->size == sizeof(*ioas) && !ioas->flags ? 0 : error(EINVAL);
}

static int iova_ranges(struct uapi_iommu_ioas_iova_ranges *r)
{
    uint32_t room = r->num_iovas;
    trace("IOVA_RANGES\n");
    if (r->size != sizeof(*r) || r->ioas_id != IOAS || r->reserved)
        return error(EINVAL);
    memcpy((void *)(uintptr_t)r->allowed_iovas, fake.iova,
           (room < fake.iovas ? room : fake.iovas) * sizeof(fake.iova[0]));
    r->num_iovas = fake.iovas;
    r->out_iova_alignment = fake.iova_alignment;
    return room < fake.iovas ? error(EMSGSIZE) : 0;
}

/* Recorded like the container's, so that a test need not know which way it was. */
static int ioas_map(const struct uapi_iommu_ioas_map *map)
{
    trace("IOAS_MAP\n");
    if (map->size != sizeof(*map) || map->ioas_id != IOAS || map->reserved || fake.maps == 8 ||
        !(map->flags & UAPI_IOMMU_IOAS_MAP_FIXED_IOVA))
        return error(EINVAL);
    if (fake.map_errno)
        return error(fake.map_errno);
    fake.map[fake.maps++] = (struct vfio_iommu_type1_dma_map){
        .flags = (map->flags & UAPI_IOMMU_IOAS_MAP_READABLE ? VFIO_DMA_MAP_FLAG_READ : 0) |
                 (map->flags & UAPI_IOMMU_IOAS_MAP_WRITEABLE ? VFIO_DMA_MAP_FLAG_WRITE : 0),
        .vaddr = map->user_va,
        .iova = map->iova,
        .size = map->length,
    };
    return 0;
}

static int ioas_unmap(struct uapi_iommu_ioas_unmap *unmap)
{
    trace("IOAS_UNMAP\n");
    if (unmap->size != sizeof(*unmap) || unmap->ioas_id != IOAS)
        return error(EINVAL);
    /* All that is in the range. */
    uint64_t length = 0;
    for (unsigned i = fake.maps; i-- > 0;) {
        if (fake.map[i].iova < unmap->iova ||
            fake.map[i].iova - unmap->iova + fake.map[i].size > unmap->length)
            continue;
        length += fake.map[i].size;
        fake.map[i] = fake.map[--fake.maps];
    }
    unmap->length = length;
    return length ? 0 : error(ENOENT);
}

static int iommufd_ioctl(unsigned long request, unsigned long arg)
{
    switch (request) {
    case UAPI_IOMMU_IOAS_ALLOC:
        return ioas_alloc((void *)arg);
    case UAPI_IOMMU_IOAS_IOVA_RANGES:
        return iova_ranges((void *)arg);
    case UAPI_IOMMU_IOAS_MAP:
        return ioas_map((const void *)arg);
    case UAPI_IOMMU_IOAS_UNMAP:
        return ioas_unmap((void *)arg);
    default:
        return error(ENOTTY);
    }
}

static int bind_iommufd(int fd, const struct uapi_vfio_device_bind_iommufd *bind)
{
    trace("BIND_IOMMUFD\n");
    if (bind->argsz != sizeof(*bind) || bind->flags || fake.kind[bind->iommufd] != FAKE_IOMMUFD)
        return error(EINVAL);
    if (fake.set_container_errno || !(fake.group_flags & VFIO_GROUP_FLAGS_VIABLE))
        return error(fake.set_container_errno ? fake.set_container_errno : EBUSY);
    for (int i = 0; i < FAKE_FDS; i++) {
        if (fake.kind[i] == FAKE_DEVICE_FD && fake.joined[i] &&
            fake.number[i] == fake.number[fd])
            return error(EINVAL);
    }
    fake.hv_missed |= !hv_knows(fd);
    fake.joined[fd] = true;
    return 0;
}

static int attach_iommufd(int fd, const struct uapi_vfio_device_attach_iommufd_pt *attach)
{
    trace("ATTACH_IOMMUFD_PT\n");
    if (attach->argsz != sizeof(*attach) || attach->flags || attach->pt_id != IOAS ||
        !fake.joined[fd])
        return error(EINVAL);
    fake.attached[fd] = !fake.set_iommu_errno;
    return fake.set_iommu_errno ? error(fake.set_iommu_errno) : 0;
}

/* ---- groups and devices ---- */

static void leave(int fd)
{
    fake.joined[fd] = false;
    if (!count_joined()) {
        fake.iommu_set = false;
        fake.maps = 0;
    }
}

static int get_device_fd(int fd, const char *name)
{
    trace("GET_DEVICE_FD %s\n", name);
    if (!fake.joined[fd] || !fake.iommu_set)
        return error(EINVAL);
    if (fake.device_fd_errno)
        return error(fake.device_fd_errno);
    fake.hv_missed |= !hv_knows(fd);
    return new_fd(FAKE_DEVICE_FD, fake.number[fd]);
}

static int group_ioctl(int fd, unsigned long request, unsigned long arg)
{
    struct vfio_group_status *status = (void *)arg;
    switch (request) {
    case VFIO_GROUP_GET_STATUS:
        trace("GET_STATUS\n");
        status->flags = fake.group_flags;
        return status->argsz == sizeof(*status) ? 0 : error(EINVAL);
    case VFIO_GROUP_SET_CONTAINER:
        trace("SET_CONTAINER\n");
        if (fake.kind[*(const int *)arg] != FAKE_CONTAINER || fake.joined[fd])
            return error(EINVAL);
        fake.joined[fd] = !fake.set_container_errno;
        return fake.set_container_errno ? error(fake.set_container_errno) : 0;
    case VFIO_GROUP_UNSET_CONTAINER:
        trace("UNSET_CONTAINER\n");
        if (is_open(FAKE_DEVICE_FD, fake.number[fd]))
            return error(EBUSY);
        leave(fd);
        return 0;
    case VFIO_GROUP_GET_DEVICE_FD:
        return get_device_fd(fd, (const char *)arg);
    default:
        return error(ENOTTY);
    }
}

static int device_info(struct vfio_device_info *info)
{
    info->flags = fake.device_flags;
    info->num_regions = fake.regions;
    info->num_irqs = fake.irqs;
    return info->argsz >= 16 ? 0 : error(EINVAL);
}

static int set_irqs(const struct vfio_irq_set *set)
{
    fake.irq_argsz = set->argsz;
    fake.irq_flags = set->flags;
    fake.irq_index = set->index;
    fake.irq_start = set->start;
    fake.irq_count = set->count;
    if (set->argsz > sizeof(*set))
        memcpy(fake.irq_fd, set->data,
               set->argsz - sizeof(*set) < sizeof(fake.irq_fd) ? set->argsz - sizeof(*set)
                                                               : sizeof(fake.irq_fd));
    return fake.irq_ret < 0 ? error(-fake.irq_ret) : fake.irq_ret;
}

static int hot_reset_info(int fd, struct vfio_pci_hot_reset_info *info)
{
    uint32_t room =
        (uint32_t)((info->argsz - sizeof(*info)) / sizeof(struct vfio_pci_dependent_device));
    info->count = fake.affected_nr;
    info->flags = !fake.is_cdev[fd] ? 0 : fake.affected_owned ? 3 : 1;
    if (!fake.affected_nr)
        return error(ENODEV);
    if (room < fake.affected_nr)
        return error(ENOSPC);
    memcpy(info->devices, fake.affected, sizeof(fake.affected));
    return 0;
}

static int hot_reset(int fd, const struct vfio_pci_hot_reset *reset)
{
    if (fake.is_cdev[fd] ? reset->count || !fake.affected_owned
                         : !reset->count || reset->count > fake.affected_nr)
        return error(EINVAL);
    if (reset->flags || reset->argsz < sizeof(*reset) + reset->count * sizeof(int))
        return error(EINVAL);
    if (fake.hot_reset_errno)
        return error(fake.hot_reset_errno);
    fake.hot_resets++;
    fake.hot_reset_count = reset->count;
    fake.hot_reset_argsz = reset->argsz;
    memcpy(fake.hot_reset_fd, reset->group_fds, reset->count * sizeof(int));
    return 0;
}

static int device_ioctl(int fd, unsigned long request, unsigned long arg)
{
    const struct vfio_region_info *region = (const void *)arg;
    if (fake.is_cdev[fd] && request == UAPI_VFIO_DEVICE_BIND_IOMMUFD)
        return bind_iommufd(fd, (const void *)arg);
    if (fake.is_cdev[fd] && request == UAPI_VFIO_DEVICE_ATTACH_IOMMUFD_PT)
        return attach_iommufd(fd, (const void *)arg);
    if (fake.is_cdev[fd] && !fake.attached[fd])
        return error(EINVAL);
    switch (request) {
    case VFIO_DEVICE_GET_INFO:
        trace("DEVICE_GET_INFO\n");
        return device_info((void *)arg);
    case VFIO_DEVICE_GET_REGION_INFO:
        if (region->index >= FAKE_REGIONS)
            return error(EINVAL);
        return answer(&fake.region[region->index], (uint32_t *)arg);
    case VFIO_DEVICE_GET_IRQ_INFO:
        fake.irq.index = ((const struct vfio_irq_info *)arg)->index;
        *(struct vfio_irq_info *)arg = fake.irq;
        return 0;
    case VFIO_DEVICE_SET_IRQS:
        return set_irqs((const void *)arg);
    case VFIO_DEVICE_RESET:
        fake.resets++;
        return fake.device_flags & VFIO_DEVICE_FLAGS_RESET ? 0 : error(EINVAL);
    case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
        if (!(fake.device_flags & VFIO_DEVICE_FLAGS_PCI))
            return error(ENOTTY);
        return hot_reset_info(fd, (void *)arg);
    case VFIO_DEVICE_PCI_HOT_RESET:
        return hot_reset(fd, (const void *)arg);
    default:
        return error(ENOTTY);
    }
}

/* ---- files that the kernel acts upon ---- */

static int open_file(const char *path, int flags, mode_t mode)
{
    char buf[PATH_MAX];
    if (fake.busy && !strcmp(path, fake.busy))
        return error(EBUSY);
    int fd = __real_open(translate(path, buf), flags, mode);
    if (fd >= 0 && fd < FAKE_FDS && fake.written && (flags & O_ACCMODE) == O_WRONLY)
        snprintf(fake.writing[fd], sizeof(fake.writing[fd]), "%s", path);
    return fd;
}

static void after_writing(int fd)
{
    char path[sizeof(fake.writing[fd])], text[128];
    memcpy(path, fake.writing[fd], sizeof(path));
    fake.writing[fd][0] = '\0';
    int again = open_file(path, O_RDONLY | O_CLOEXEC, 0);
    ssize_t len = read(again, text, sizeof(text) - 1);
    text[len < 0 ? 0 : len] = '\0';
    __real_close(again);
    fake.written(path, text);
}

/* ---- the wrapped calls ---- */

int __wrap_open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (!active)
        return __real_open(path, flags, mode);
    if (fails())
        return -1;
    if (!strncmp(path, "/dev/vfio/", 10) || !strcmp(path, "/dev/iommu"))
        return open_vfio(path + 5, flags);
    return open_file(path, flags, mode);
}

int __wrap_close(int fd)
{
    static const char *const name[] = {"", "container", "group", "device", "iommufd"};
    if (active && fd >= 0 && fd < FAKE_FDS && fake.kind[fd] != FAKE_NONE) {
        trace("close %s\n", name[fake.kind[fd]]);
        fake.hv_missed |= hv_knows(fd);
        fake.live--;
        enum fake_kind kind = fake.kind[fd];
        fake.kind[fd] = FAKE_NONE;
        if (kind == FAKE_GROUP_FD)
            leave(fd);
        if (kind == FAKE_IOMMUFD)
            fake.maps = 0;
    }
    int ret = __real_close(fd);
    if (active && fd >= 0 && fd < FAKE_FDS && fake.writing[fd][0])
        after_writing(fd);
    return ret;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    va_start(args, request);
    unsigned long arg = va_arg(args, unsigned long);
    va_end(args);
    if (!active)
        return __real_ioctl(fd, request, arg);
    if (fails())
        return -1;
    if (fd < 0 || fd >= FAKE_FDS)
        return error(EBADF);
    switch (fake.kind[fd]) {
    case FAKE_CONTAINER:
        return container_ioctl(request, arg);
    case FAKE_GROUP_FD:
        return group_ioctl(fd, request, arg);
    case FAKE_DEVICE_FD:
        return device_ioctl(fd, request, arg);
    case FAKE_IOMMUFD:
        return iommufd_ioctl(request, arg);
    default:
        return fake.other_ioctl ? fake.other_ioctl(fd, request, (void *)arg)
                                : __real_ioctl(fd, request, arg);
    }
}

int __wrap_access(const char *path, int mode)
{
    char buf[PATH_MAX];
    if (active && fails())
        return -1;
    if (active && mode != F_OK && fake.denied &&
        !strncmp(path, fake.denied, strlen(fake.denied)))
        return error(EACCES);
    return __real_access(translate(path, buf), mode);
}

int __wrap_mkdir(const char *path, mode_t mode)
{
    char buf[PATH_MAX];
    return active && fails() ? -1 : __real_mkdir(translate(path, buf), mode);
}

int __wrap_unlink(const char *path)
{
    char buf[PATH_MAX];
    return active && fails() ? -1 : __real_unlink(translate(path, buf));
}

ssize_t __wrap_readlink(const char *path, char *out, size_t size)
{
    char buf[PATH_MAX];
    return active && fails() ? -1 : __real_readlink(translate(path, buf), out, size);
}

char *__wrap_realpath(const char *path, char *out)
{
    char buf[PATH_MAX];
    if (active && fails())
        return NULL;
    const char *real_path = translate(path, buf);
    char *real = __real_realpath(real_path, out);
    if (real && real_path == buf && !strncmp(real, root, strlen(root)))
        memmove(real, real + strlen(root), strlen(real + strlen(root)) + 1);
    return real;
}

int __wrap_scandir(const char *path, struct dirent ***out, scan_filter *f, scan_compare *c)
{
    char buf[PATH_MAX];
    return active && fails() ? -1 : __real_scandir(translate(path, buf), out, f, c);
}
