/*
 * vfio_line.c: see vfio_line.h.
 *
 * The interrupt is an eventfd that the host's handler or a vfio-user server signals and that
 * raises the guest's input by irqfd, with no step in this program. A level-triggered one is
 * masked by the host when it fires (VFIO_IRQ_INFO_AUTOMASKED), and the guest's end of interrupt
 * unmasks it by the resample eventfd; where a device cannot take that (the kernel's mtty
 * sample), the main loop unmasks it. Without AUTOMASKED, as in libvfio-user, it is a pulse.
 * Left out: level without irqfd resampling (it would need an exit at every end of interrupt).
 *
 * The owner's lock, or before and after the guest runs.
 */
#include "vfio/vfio_line.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vfio/vfio.h"
#include "vmm/hv.h"
#include "vmm/loop.h"
#include "vmm/util.h"

unsigned vfio_line_count(struct vfio_device *dev, uint32_t index, uint32_t *flags)
{
    struct vfio_irq_info info = {.argsz = sizeof(info), .index = index};
    if (index >= dev->irqs || dev->ops->irq_info(dev, index, &info) ||
        !(info.flags & VFIO_IRQ_INFO_EVENTFD))
        return 0;
    *flags = info.flags;
    return info.count;
}

int vfio_line_init(struct vfio_line *line)
{
    line->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    line->unmask_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return line->fd < 0 || line->unmask_fd < 0 ? -errno : 0;
}

static int set(const struct vfio_line *line, uint32_t flags, uint32_t count, const int *fd)
{
    return line->dev->ops->irq_set(line->dev, line->index, flags, 0, count, fd);
}

/* In the loop: the guest's end of interrupt. */
static void resampled(void *opaque, uint32_t events)
{
    const struct vfio_line *line = opaque;
    uint64_t count;
    (void)events;
    if (read(line->unmask_fd, &count, sizeof(count)) == sizeof(count))
        set(line, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 1, NULL);
}

/*
 * An interrupt may fire from the first call on, before its unmasking is arranged; it would then
 * stay masked for ever. Hence mask, arrange, unmask: unmasking an interrupt that is still
 * pending signals it again.
 */
static int trigger(struct vfio_line *line)
{
    const struct {
        uint32_t flags;
        const int *fd;
    } step[] = {
        {VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, &line->fd},
        {VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK, NULL},
        {VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, &line->unmask_fd},
        {VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, NULL},
    };
    unsigned steps = line->level ? ARRAY_SIZE(step) : 1;
    int err = 0;

    for (unsigned i = 0; i < steps && !err; i++) {
        bool unmask_fd = step[i].fd == &line->unmask_fd;
        if (unmask_fd && line->by_hand)
            continue;
        err = set(line, step[i].flags, 1, step[i].fd);
        if (err == -ENOTTY && unmask_fd && line->loop) {
            err = loop_add(line->loop, line->unmask_fd, EPOLLIN, resampled, line);
            line->by_hand = !err;
        }
    }
    return err;
}

int vfio_line_on(struct vfio_line *line)
{
    int err = line->hv->ops->irqfd_add(line->hv, line->fd, line->gsi,
                                       line->level ? line->unmask_fd : -1);
    if (err)
        return err;
    line->on = true;
    err = trigger(line);
    if (err)
        vfio_line_off(line);
    return err;
}

/* vfio-platform keeps the unmask eventfd when the trigger goes, and refuses a second one. */
void vfio_line_off(struct vfio_line *line)
{
    const int none = -1;
    if (!line->on)
        return;
    if (line->level && !line->by_hand)
        set(line, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, 1, &none);
    set(line, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 0, NULL);
    line->hv->ops->irqfd_remove(line->hv, line->fd, line->gsi);
    line->on = false;
}

void vfio_line_fini(struct vfio_line *line)
{
    if (!line->dev)
        return;
    vfio_line_off(line);
    if (line->by_hand)
        loop_remove(line->loop, line->unmask_fd);
    if (line->fd >= 0)
        close(line->fd);
    if (line->unmask_fd >= 0)
        close(line->unmask_fd);
    line->dev = NULL;
}
