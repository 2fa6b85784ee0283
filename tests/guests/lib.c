/*
 * lib.c: output, verdict, arguments and traps: all that needs only a processor and COM1.
 */
#include "lib.h"

#include <stdarg.h>

/* --- output --- */

enum { UART_THR = 0, UART_LSR = 5, UART_LSR_THRE = 0x20 };

static void put(char c)
{
    while (!(inb(COM1 + UART_LSR) & UART_LSR_THRE))
        cpu_relax();
    outb(COM1 + UART_THR, (uint8_t)c);
}

static void put_number(uint64_t value, unsigned base, unsigned width, char pad)
{
    char digit[20];
    unsigned n = 0;

    do {
        digit[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    for (; width > n; width--)
        put(pad);
    while (n > 0)
        put(digit[--n]);
}

static void vprint(const char *fmt, va_list ap)
{
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        char pad = *++fmt == '0' ? '0' : ' ';
        unsigned width = 0;
        for (; *fmt >= '0' && *fmt <= '9'; fmt++)
            width = width * 10 + (unsigned)(*fmt - '0');
        bool is_long = *fmt == 'l';
        if (is_long)
            fmt++;
        if (*fmt == 's') {
            for (const char *s = va_arg(ap, const char *); *s; s++)
                put(*s);
        } else if (*fmt == 'c') {
            put((char)va_arg(ap, int));
        } else if (*fmt == 'd') {
            int64_t v = is_long ? va_arg(ap, int64_t) : va_arg(ap, int);
            if (v < 0)
                put('-');
            put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, width, pad);
        } else if (*fmt == 'u' || *fmt == 'x') {
            uint64_t v = is_long ? va_arg(ap, uint64_t) : va_arg(ap, unsigned);
            put_number(v, *fmt == 'u' ? 10 : 16, width, pad);
        } else {
            put(*fmt);
        }
    }
}

void print(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}

/* --- verdict --- */

static unsigned checks, failures;

bool check(bool ok, const char *fmt, ...)
{
    va_list ap;

    checks++;
    failures += !ok;
    print(ok ? "ok   " : "FAIL ");
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
    put('\n');
    return ok;
}

_Noreturn void finish(const char *name)
{
    if (failures || !checks)
        print("%s: fail (%u of %u checks)\n", name, failures, checks);
    else
        print("%s: pass (%u checks)\n", name, checks);
    outb(DEBUG_EXIT, failures || !checks);
    /* Still here: that port is off, so power off, or crash as who has failed. */
    if (!failures && checks)
        outw(PM1_CNT, 5 << 10 | 1 << 13); /* S5, as minivmm has it */
    else
        triple_fault();
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* --- what a compiler may call even in freestanding code; one instruction each, as a software
 * KVM is slow with loops --- */

void *memset(void *to, int value, size_t len)
{
    void *at = to;

    __asm__ volatile("rep stosb" : "+D"(at), "+c"(len) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t len)
{
    void *at = to;
    size_t words = len / 8;

    len %= 8;
    __asm__ volatile("rep movsq" : "+D"(at), "+S"(from), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(len) : : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t len)
{
    bool above, below;

    __asm__ volatile("xorl %%eax, %%eax; repe cmpsb"
                     : "+S"(a), "+D"(b), "+c"(len), "=@cca"(above), "=@ccb"(below)
                     :
                     : "eax", "memory");
    return above - below;
}

/* --- start info, arguments, memory --- */

static const struct start_info *info;
extern uint64_t page_dir[5 * 512];

const struct start_info *start_info_get(void)
{
    return info;
}

/* The same from Linux's boot parameters (Documentation/arch/x86/zero-page.rst), which a flat
 * binary gets. */
static const struct start_info *from_zero_page(const uint8_t *zero)
{
    static struct memmap_entry map[128];
    static struct start_info made;

    made.memmap = (uintptr_t)map;
    made.memmap_entries = zero[0x1e8] < ARRAY_SIZE(map) ? zero[0x1e8] : ARRAY_SIZE(map);
    for (unsigned i = 0; i < made.memmap_entries; i++)
        memcpy(&map[i], zero + 0x2d0 + 20 * i, 20);
    memcpy(&made.rsdp, zero + 0x70, 8);
    memcpy(&made.cmdline, zero + 0x228, 4);
    return &made;
}

uint64_t ram_end(uint64_t limit)
{
    const struct memmap_entry *map = (const void *)(uintptr_t)info->memmap;
    uint64_t end = 0;

    for (unsigned i = 0; i < info->memmap_entries; i++)
        if (map[i].type == MEMMAP_RAM && map[i].base < limit && map[i].base + map[i].size > end)
            end = map[i].base + map[i].size;
    return end;
}

static const char *after_prefix(const char *text, const char *prefix)
{
    while (*prefix)
        if (*text++ != *prefix++)
            return NULL;
    return text;
}

const char *arg(const char *name)
{
    const char *s = (const char *)(uintptr_t)info->cmdline;

    while (s && *s) {
        const char *rest = after_prefix(s, name);
        if (rest && (*rest == '\0' || *rest == ' ' || *rest == '='))
            return rest;
        while (*s && *s != ' ')
            s++;
        while (*s == ' ')
            s++;
    }
    return NULL;
}

uint64_t arg_number(const char *name, uint64_t otherwise)
{
    const char *s = arg(name);
    uint64_t value = 0;

    if (!s || *s != '=')
        return otherwise;
    for (s++; *s >= '0' && *s <= '9'; s++)
        value = value * 10 + (uint64_t)(*s - '0');
    return value;
}

void *window(uint64_t addr)
{
    const uint64_t page = 0x200000;
    uint8_t *at = (uint8_t *)(uintptr_t)0x100000000;

    page_dir[4 * 512] = (addr & ~(page - 1)) | 0x83; /* present, writable, 2 MiB */
    __asm__ volatile("invlpg (%0)" : : "r"(at) : "memory");
    return at + (addr & (page - 1));
}

/* --- traps --- */

struct gate { /* 64-bit interrupt gate, Intel SDM volume 3, figure 6-8 */
    uint16_t offset_low, selector, flags, offset_mid;
    uint32_t offset_high, reserved;
};
_Static_assert(sizeof(struct gate) == 16, "an IDT entry has 16 bytes");

struct fixup {
    uint64_t from, to;
};

extern const uint8_t trap_stubs[256][16];
extern const struct fixup fixup_start[], fixup_end[];
void trap(struct trap *trap);
void start_c(const struct start_info *start);
int main(void);

static struct gate idt[256];
static void (*handlers[256])(struct trap *trap);

void on_trap(unsigned vector, void (*handler)(struct trap *trap))
{
    handlers[vector] = handler;
}

void trap(struct trap *trap)
{
    if (handlers[trap->vector]) {
        handlers[trap->vector](trap);
        return;
    }
    for (const struct fixup *f = fixup_start; f < fixup_end; f++) {
        if (f->from == trap->rip) {
            trap->rip = f->to;
            return;
        }
    }
    uint64_t cr2;
    __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
    check(false, "trap %lu, error %lx, rip %lx, cr2 %lx", trap->vector, trap->error, trap->rip,
          cr2);
    finish("trap");
}

void traps_load(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (uintptr_t)idt};

    __asm__ volatile("lidt %0" : : "m"(pointer));
}

void triple_fault(void)
{
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = {0, 0};

    __asm__ volatile("lidt %0; int3" : : "m"(none));
}

void start_c(const struct start_info *start)
{
    info = start->magic == START_INFO_MAGIC ? start : from_zero_page((const void *)start);
    for (unsigned i = 0; i < ARRAY_SIZE(idt); i++) {
        uintptr_t at = (uintptr_t)trap_stubs[i];
        idt[i] = (struct gate){.offset_low = (uint16_t)at,
                               .selector = 0x18,
                               .flags = 0x8e00, /* present, interrupt gate */
                               .offset_mid = (uint16_t)(at >> 16),
                               .offset_high = (uint32_t)(at >> 32)};
    }
    traps_load();
    main();
    finish("main returned");
}
