/*
 * vsock cid | vsock send CID PORT <DATA | vsock recv PORT >DATA: AF_VSOCK for both sides of a
 * VM. cid prints this side's address. send waits for a listener, up to ten seconds; recv takes
 * one connection and ends with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what)
{
    fprintf(stderr, "vsock: cannot %s: %s\n", what, strerror(errno));
    return 1;
}

static int print_cid(void)
{
    unsigned cid;
    int fd = open("/dev/vsock", O_RDONLY);
    if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
        return fail("ask /dev/vsock");
    printf("%u\n", cid);
    return 0;
}

static int copy(int from, int to)
{
    static char buf[256 * 1024];
    ssize_t n;
    while ((n = read(from, buf, sizeof(buf))) > 0) {
        for (ssize_t done = 0, put; done < n; done += put) {
            put = write(to, buf + done, (size_t)(n - done));
            if (put < 0)
                return fail("write");
        }
    }
    return n < 0 ? fail("read") : 0;
}

static int send_to(unsigned cid, unsigned port)
{
    const struct sockaddr_vm at = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
    for (int i = 0; i < 100; i++) {
        int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
        if (fd >= 0 && !connect(fd, (const struct sockaddr *)&at, sizeof(at)))
            return copy(STDIN_FILENO, fd);
        if (fd >= 0)
            close(fd);
        usleep(100000);
    }
    return fail("connect");
}

static int recv_at(unsigned port)
{
    const struct sockaddr_vm at = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&at, sizeof(at)) || listen(fd, 1))
        return fail("listen");
    fd = accept(fd, NULL, NULL);
    return fd < 0 ? fail("accept") : copy(fd, STDOUT_FILENO);
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "cid"))
        return print_cid();
    if (argc == 4 && !strcmp(argv[1], "send"))
        return send_to((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]));
    if (argc == 3 && !strcmp(argv[1], "recv"))
        return recv_at((unsigned)atoi(argv[2]));
    fputs("usage: vsock cid | vsock send CID PORT | vsock recv PORT\n", stderr);
    return 2;
}
