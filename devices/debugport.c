/*
 * debugport.c: the port of --debug-exit.
 *
 * One port wide: a wider write is split by the bus, and the exit status has room for no more of
 * the value than its low byte. Stateless, so there is no lock.
 */
#include "devices/debugport.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/bus.h"
#include "vmm/util.h"

struct debugport {
    struct bus *pio;
    uint16_t port;
    struct power power;
};

static uint64_t debugport_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    (void)offset;
    return all_ones(size);
}

static void debugport_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct debugport *dev = opaque;
    (void)offset;
    (void)size;
    dev->power.ops->debug_exit(dev->power.opaque, (unsigned)value);
}

static const struct bus_ops debugport_ops = {.read = debugport_read, .write = debugport_write};

int debugport_create(struct debugport **out, struct bus *pio, uint16_t port, struct power power)
{
    struct debugport *dev = calloc(1, sizeof(*dev));
    const struct bus_range range = {port, 1, &debugport_ops, dev, "debug-exit"};
    if (!dev)
        return -ENOMEM;
    *dev = (struct debugport){.pio = pio, .port = port, .power = power};
    int err = bus_add(pio, &range);
    if (err) {
        free(dev);
        return err;
    }
    *out = dev;
    return 0;
}

void debugport_destroy(struct debugport *dev)
{
    if (!dev)
        return;
    bus_remove(dev->pio, dev->port);
    free(dev);
}
