/*
 * run.c: run COMMAND...: starts a command, prints `FIRST TOTAL`: microseconds from fork() until
 * the first byte '!' on its standard output, and until its end; then its status. A guest prints
 * the byte with its first instructions. 1000000000 stands for "never"; a command that takes
 * longer than 20 s is killed.
 */
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NEVER    1000000000
#define LIMIT_US 20000000

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

/* When the byte came, or NEVER. Returns at the end of the output. */
static int64_t read_output(int fd, int64_t begin)
{
    struct pollfd p = {fd, POLLIN, 0};
    int64_t first = NEVER, left;
    char buf[4096];

    while ((left = begin + LIMIT_US - now_us()) > 0 && poll(&p, 1, (int)(left / 1000)) > 0) {
        ssize_t n = read(fd, buf, sizeof(buf));
        if (n <= 0)
            break;
        if (first == NEVER && memchr(buf, '!', (size_t)n))
            first = now_us() - begin;
    }
    return first;
}

int main(int argc, char **argv)
{
    int status = 0, out[2];

    if (argc < 2 || pipe(out) < 0)
        return 2;
    int64_t begin = now_us();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        close(out[1]);
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    close(out[1]);
    int64_t first = read_output(out[0], begin);
    if (now_us() - begin >= LIMIT_US)
        kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    printf("%lld %lld %d\n", (long long)first, (long long)(now_us() - begin),
           WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return 0;
}
