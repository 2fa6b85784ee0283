/*
 * cmos get | cmos set N: one byte of the CMOS RAM, at 0x60, which neither the
 * clock nor the kernel uses. It survives a reset of the machine and is lost with
 * the machine, as it has no battery: the guest counts its boots with it. A value
 * is only believed when its complement is in the next byte: fresh RAM counts as 0.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>

enum { INDEX = 0x70, DATA = 0x71, BYTE = 0x60 };

static unsigned char get(unsigned char at)
{
    outb(at, INDEX);
    return inb(DATA);
}

static void set(unsigned char at, unsigned char value)
{
    outb(at, INDEX);
    outb(value, DATA);
}

int main(int argc, char **argv)
{
    if (argc < 2 || ioperm(INDEX, 2, 1)) {
        perror("cmos: usage: cmos get | cmos set N, as root");
        return 1;
    }
    if (strcmp(argv[1], "set") == 0 && argc == 3) {
        unsigned char v = (unsigned char)atoi(argv[2]);
        set(BYTE, v);
        set(BYTE + 1, (unsigned char)~v);
    }
    unsigned char v = get(BYTE);
    printf("%d\n", get(BYTE + 1) == (unsigned char)~v ? v : 0);
    return 0;
}
