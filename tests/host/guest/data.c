/*
 * data write|check|sum FILE OFFSET BYTES SEED: data that can be recognised.
 *
 * write fills a part of a file or disk with numbers that only the seed and the
 * place determine; check reads it and compares every byte; sum prints a checksum
 * of what is there. All go past the page cache (O_DIRECT) where the file allows
 * it, so every byte crosses the device, by DMA. The same program runs in the
 * guest, in the host and on the machine outside, on the raw file behind the disk.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 256 * 1024 };

static uint64_t mix(uint64_t x) /* splitmix64 */
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static void fill(uint64_t *buf, size_t bytes, uint64_t at, uint64_t seed)
{
    for (size_t i = 0; i < bytes / 8; i++)
        buf[i] = mix(seed ^ (at + i * 8));
}

static int fail(const char *what, const char *file)
{
    fprintf(stderr, "data: cannot %s %s: %s\n", what, file, strerror(errno));
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fputs("usage: data write|check|sum FILE OFFSET BYTES SEED\n", stderr);
        return 2;
    }
    int writing = !strcmp(argv[1], "write"), checking = !strcmp(argv[1], "check");
    const char *file = argv[2];
    uint64_t offset = strtoull(argv[3], 0, 0), bytes = strtoull(argv[4], 0, 0);
    uint64_t seed = mix(strtoull(argv[5], 0, 0)), sum = 0;
    uint64_t *buf = aligned_alloc(4096, CHUNK), *want = aligned_alloc(4096, CHUNK);
    int flags = writing ? O_RDWR | O_SYNC : O_RDONLY;
    int fd = open(file, flags | O_DIRECT);
    if (fd < 0 && errno == EINVAL) /* tmpfs and some others have no direct I/O */
        fd = open(file, flags);
    if (fd < 0 || !buf || !want || bytes % 4096 || offset % 4096)
        return fail("open", file);

    for (uint64_t done = 0; done < bytes; done += CHUNK) {
        size_t n = bytes - done < CHUNK ? bytes - done : CHUNK;
        off_t at = (off_t)(offset + done);
        if (writing) {
            fill(buf, n, offset + done, seed);
            if (pwrite(fd, buf, n, at) != (ssize_t)n)
                return fail("write", file);
        } else {
            memset(buf, 0x55, n);
            if (pread(fd, buf, n, at) != (ssize_t)n)
                return fail("read", file);
        }
        if (checking) {
            fill(want, n, offset + done, seed);
            for (size_t i = 0; i < n / 8; i++)
                if (buf[i] != want[i]) {
                    fprintf(stderr, "data: %s differs at byte %llu: %016llx, not %016llx\n", file,
                            (unsigned long long)(offset + done + i * 8), (unsigned long long)buf[i],
                            (unsigned long long)want[i]);
                    return 1;
                }
        }
        for (size_t i = 0; i < n / 8; i++)
            sum = mix(sum ^ buf[i]);
    }
    if (writing && fsync(fd))
        return fail("sync", file);
    printf("%016llx\n", (unsigned long long)sum);
    return 0;
}
