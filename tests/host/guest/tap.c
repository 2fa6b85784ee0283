/* tap NAME [multi]: makes a tap that stays, as `ip tuntap add NAME mode tap [multi_queue]` does. */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR);
    if (argc < 2 || fd < 0)
        return 1;
    if (argc > 2)
        ifr.ifr_flags |= IFF_MULTI_QUEUE;
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", argv[1]);
    return ioctl(fd, TUNSETIFF, &ifr) || ioctl(fd, TUNSETPERSIST, 1);
}
