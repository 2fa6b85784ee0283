/*
 * vfio_user_json.c: what a vfio-user server says about itself in its VERSION reply:
 * {"capabilities":{"max_msg_fds":8,"twin_socket":{"supported":true,...},...}}. Pure function.
 */
#include <errno.h>

#include "vfio/vfio_user.h"
#include "vmm/json.h"
#include "vmm/util.h"

#define FIELD(path, kind, member)                            \
    {                                                        \
        path, kind, offsetof(struct vfio_user_caps, member), \
            sizeof(((struct vfio_user_caps *)NULL)->member)  \
    }

static const struct json_field field[] = {
    {"capabilities", JSON_OBJECT, 0, 0},
    FIELD("capabilities.max_msg_fds", JSON_NUMBER, max_msg_fds),
    FIELD("capabilities.max_data_xfer_size", JSON_NUMBER, max_data_xfer_size),
    FIELD("capabilities.max_dma_maps", JSON_NUMBER, max_dma_maps),
    FIELD("capabilities.pgsizes", JSON_NUMBER, pgsizes),
    FIELD("capabilities.write_multiple", JSON_BOOLEAN, write_multiple),
    {"capabilities.twin_socket", JSON_OBJECT, 0, 0},
    FIELD("capabilities.twin_socket.supported", JSON_BOOLEAN, twin),
    FIELD("capabilities.twin_socket.fd_index", JSON_NUMBER, twin_fd),
    FIELD("capabilities.compatible", JSON_STRING, compatible),
};

int vfio_user_caps_read(struct vfio_user_caps *caps, const char *text, size_t size)
{
    if (json_read(field, ARRAY_SIZE(field), caps, text, size))
        return -EINVAL;
    size_t plain =
        strspn(caps->compatible, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "0123456789,._+-");
    return caps->compatible[plain] ? -EINVAL : 0;
}
