/*
 * vfio_user.c: the vfio-user client. Only its outline as yet.
 */
#include <errno.h>

#include "vfio/vfio.h"

int vfio_user_connect(struct vfio_user **out, const char *path, struct loop *loop)
{
    (void)out, (void)path, (void)loop;
    return -ENOSYS;
}

void vfio_user_destroy(struct vfio_user *user)
{
    (void)user;
}

struct vfio_device *vfio_user_device(struct vfio_user *user)
{
    (void)user;
    return NULL;
}
