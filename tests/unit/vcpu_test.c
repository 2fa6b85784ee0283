/*
 * vcpu_test.c: vmm/vcpu.c, vcpu_state.c and kvm.c together: guests of a few instructions on
 * this machine's /dev/kvm, skipped with a reason where it cannot be used.
 *
 * A guest talks through ports: 0x10 takes what it wants to tell (any size), 0x11 gives bytes
 * 1, 2, 3.., 0x12 says that it is done, 0x13 asks the test for a stop from inside the handler.
 * The limit of 20 s on every wait is there to fail instead of to hang; nothing is measured.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "vmm/bus.h"
#include "vmm/cpu_list.h"
#include "vmm/entry.h"
#include "vmm/kvm.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/mem.h"
#include "vmm/util.h"
#include "vmm/vcpu.h"

/* ---- guests ---- */

#define GUEST(name, code)                                                           \
    extern const uint8_t guest_##name[], guest_##name##_end[];                      \
    __asm__(".pushsection .rodata\n.globl guest_" #name "\nguest_" #name ":\n" code \
            "\n.globl guest_" #name "_end\nguest_" #name "_end:\n"                  \
            ".code64\n.popsection")

/* Stays where it is when it is done; nothing but a stop ends it. */
#define DONE "outb %al, $0x12\n 99: jmp 99b\n"

GUEST(real, ".code16\n"
            "movw %cs, %ax\n outw %ax, $0x10\n"
            "movw %ss, %ax\n outw %ax, $0x10\n"
            "movl $0x12345678, %eax\n outl %eax, $0x10\n"
            "inb $0x11, %al\n outb %al, $0x10\n"
            "movl %cr0, %eax\n outl %eax, $0x10\n" DONE);

/* String I/O: three words out from 0x2000, four bytes in to 0x3000, then those out. */
GUEST(strings, ".code16\n"
               "xorw %ax, %ax\n movw %ax, %ds\n movw %ax, %es\n cld\n"
               "movw $0x2000, %si\n movw $3, %cx\n movw $0x10, %dx\n rep outsw\n"
               "movw $0x3000, %di\n movw $4, %cx\n movw $0x11, %dx\n rep insb\n"
               "movl 0x3000, %eax\n outl %eax, $0x10\n" DONE);

GUEST(protected, ".code32\n"
                 "movl %eax, %edi\n"
                 "movl %cr0, %eax\n outl %eax, $0x10\n"
                 "movl %ebx, %eax\n outl %eax, $0x10\n"
                 "movw %cs, %ax\n outw %ax, $0x10\n"
                 "movw %ds, %ax\n outw %ax, $0x10\n"
                 "movl %esp, %eax\n outl %eax, $0x10\n"
                 "movl %edi, %eax\n outl %eax, $0x10\n" DONE);

GUEST(long, ".code64\n"
            "movabsq $0x1122334455667788, %rax\n shrq $32, %rax\n outl %eax, $0x10\n"
            "movq %rsi, %rax\n outl %eax, $0x10\n"
            "movq %cr0, %rax\n outl %eax, $0x10\n"
            "movq %cr4, %rax\n outl %eax, $0x10\n"
            "movl $0xc0000080, %ecx\n rdmsr\n outl %eax, $0x10\n"
            "pushq $0x77\n popq %rax\n outb %al, $0x10\n" DONE);

/* Reads and writes at 0xd0000000: 1, 2, 4 and 8 bytes; then where nothing is. */
GUEST(mmio, ".code64\n"
            "movl $0xd0000000, %edi\n movabsq $0x1122334455667788, %rax\n"
            "movb %al, (%rdi)\n movw %ax, 2(%rdi)\n movl %eax, 4(%rdi)\n movq %rax, 8(%rdi)\n"
            "movb (%rdi), %al\n outb %al, $0x10\n"
            "movw (%rdi), %ax\n outw %ax, $0x10\n"
            "movl (%rdi), %eax\n outl %eax, $0x10\n"
            "movq (%rdi), %rax\n outl %eax, $0x10\n shrq $32, %rax\n outl %eax, $0x10\n"
            "movl $0xd8000000, %edi\n movl %eax, (%rdi)\n movl (%rdi), %eax\n"
            "outl %eax, $0x10\n" DONE);

/* Counts in memory, for ever, without an exit. */
GUEST(spin, ".code16\n"
            "xorw %ax, %ax\n movw %ax, %ds\n outb %al, $0x12\n"
            "1: incl 0x2000\n jmp 1b\n");

/* Tells a stage kept in memory, then asks for a stop in the middle of a read. */
GUEST(stopper, ".code16\n"
               "xorw %ax, %ax\n movw %ax, %ds\n"
               "incb 0x2000\n movb 0x2000, %al\n outb %al, $0x10\n"
               "movw $0x3333, %ax\n inb $0x13, %al\n outw %ax, $0x10\n" DONE);

/* Spoils what a boot can spoil, after telling what it found. 0x2000 is a list of MSRs: index,
 * new value; a zero ends it. */
GUEST(state, ".code16\n"
             "xorw %ax, %ax\n movw %ax, %ds\n movw $0x2000, %si\n"
             "1: movl (%si), %ecx\n testl %ecx, %ecx\n jz 2f\n"
             "rdmsr\n outl %eax, $0x10\n"
             "movl 4(%si), %eax\n xorl %edx, %edx\n wrmsr\n addw $8, %si\n jmp 1b\n"
             "2: movl %dr0, %eax\n outl %eax, $0x10\n movl $0x1234, %eax\n movl %eax, %dr0\n"
             "movl %cr4, %eax\n outl %eax, $0x10\n movl $0x200, %eax\n movl %eax, %cr4\n"
             "movl %cr2, %eax\n outl %eax, $0x10\n movl $0x5678, %eax\n movl %eax, %cr2\n"
             "pushfw\n popw %ax\n outw %ax, $0x10\n std\n" DONE);

/* CPUID: hypervisor bit, APIC id, the hypervisor's leaf; then one of KVM's MSRs, and the vector
 * (0x10) or its absence (0x0d: general protection) is told. */
GUEST(cpuid, ".code16\n"
             "xorw %ax, %ax\n movw %ax, %ds\n movw %ax, %ss\n movw $0x1000, %sp\n"
             "movw $3f - guest_cpuid, %ax\n addw $0x8000, %ax\n movw %ax, 13 * 4\n"
             "movw $0, 13 * 4 + 2\n"
             "movl $1, %eax\n cpuid\n movl %ecx, %eax\n shrl $31, %eax\n outb %al, $0x10\n"
             "movl %ebx, %eax\n shrl $24, %eax\n outb %al, $0x10\n"
             "movl $0x40000000, %eax\n cpuid\n movl %ebx, %eax\n outl %eax, $0x10\n"
             "movl $0x4b564d01, %ecx\n rdmsr\n movb $0x10, %al\n outb %al, $0x10\n" DONE
             "3: movb $0x0d, %al\n outb %al, $0x10\n" DONE);

/* The first CPU tells 0xb, then wakes the second by INIT and SIPI at 0x9000, which tells 0xa
 * and halts. Flat 32-bit; ICR is at 0xfee00300. */
GUEST(smp, ".code32\n"
           "movb $0xb, %al\n outb %al, $0x10\n"
           "movl $0x1ff, 0xfee000f0\n"
           "movl $0x01000000, 0xfee00310\n movl $0x00004500, 0xfee00300\n"
           "movl $0x01000000, 0xfee00310\n movl $0x00004609, 0xfee00300\n"
           "99: jmp 99b\n");
/* Where the second CPU would be if it did not wait for INIT and SIPI: it tells 0xee. */
GUEST(smp_astray, ".code16\n movb $0xee, %al\n outb %al, $0x10\n 99: jmp 99b\n");
GUEST(smp_second, ".code16\n"
                  "movb $0xa, %al\n outb %al, $0x10\n" DONE);

/* Flat 32-bit, local APIC on, IDT at 0x5000 with vector 0x40 only (the test wrote it): each
 * interrupt tells 0x40 and ends itself at the local APIC. There is nothing to return to, and
 * the software KVM has no IRET in this mode. */
GUEST(interrupts, ".code32\n"
                  "movl $0x1ff, 0xfee000f0\n"
                  "lidt 0x4ff0\n movb $0x40, %al\n outb %al, $0x12\n sti\n"
                  "99: jmp 99b\n"
                  ".org guest_interrupts + 0x80\n"
                  "movb $0x40, %al\n outb %al, $0x10\n"
                  "movl $0, 0xfee000b0\n outb %al, $0x12\n"
                  "addl $12, %esp\n sti\n 99: jmp 99b\n");

/* Real mode, PIC at vectors 0x20, input 4 open; the handler tells 0x24 and ends the interrupt.
 */
GUEST(pic, ".code16\n"
           "xorw %ax, %ax\n movw %ax, %ds\n movw %ax, %ss\n movw $0x1000, %sp\n"
           "movw $3f - guest_pic, %ax\n addw $0x8000, %ax\n movw %ax, 0x24 * 4\n"
           "movw $0, 0x24 * 4 + 2\n"
           "movb $0x11, %al\n outb %al, $0x20\n movb $0x20, %al\n outb %al, $0x21\n"
           "movb $4, %al\n outb %al, $0x21\n movb $1, %al\n outb %al, $0x21\n"
           "movb $0xef, %al\n outb %al, $0x21\n outb %al, $0x12\n sti\n"
           "99: jmp 99b\n"
           "3: movb $0x24, %al\n outb %al, $0x10\n"
           "movb $0x20, %al\n outb %al, $0x20\n outb %al, $0x12\n iretw\n");

/* The timer's interrupt comes by IOAPIC pin 2, set up for vector 0x40 (rest as above). */
GUEST(timer,
      ".code32\n"
      "movl $0x1ff, 0xfee000f0\n"
      "movb $0xff, %al\n outb %al, $0x21\n" /* the PIC has the same input, and passes it on */
      "movl $0x14, 0xfec00000\n movl $0x40, 0xfec00010\n"
      "lidt 0x4ff0\n sti\n"
      "movb $0x34, %al\n outb %al, $0x43\n" /* counter 0, rate generator */
      "movb $0, %al\n outb %al, $0x40\n movb $0x10, %al\n outb %al, $0x40\n"
      "99: jmp 99b\n"
      ".org guest_timer + 0x80\n"
      "movb $0x40, %al\n outb %al, $0x10\n"
      "outb %al, $0x12\n movl $0, 0xfee000b0\n"
      "addl $12, %esp\n sti\n 99: jmp 99b\n");

/* No IDT, and an exception: nothing can be done about it. */
GUEST(crash, ".code32\n"
             "lidt 0x4ff0\n ud2\n"
             "99: jmp 99b\n");

/* As a user (IOPL 3) in 64-bit mode, since the software KVM takes a kernel's access for MMIO.
 */
GUEST(read_high, ".code64\n"
                 "pushq $0x3002\n popfq\n"
                 "movl $0x174, %ecx\n movl $0x10, %eax\n xorl %edx, %edx\n wrmsr\n"
                 "movl $0x7000, %ecx\n movl $0x8000 + 3f - guest_read_high, %edx\n sysexitq\n"
                 "3: movl 0x10000000, %eax\n outl %eax, $0x10\n" DONE);

/* ---- the machine around them ---- */

#define CODE 0x8000
#define TOLD 64

static struct vm {
    struct mem mem;
    struct kvm *kvm;
    struct bus pio, mmio;
    struct vcpus *vcpus;
    struct cpu_list host_cpus; /* for make() */
    bool pin;
    int start_error;
    struct boot_entry entry;
    sem_t done, stopped, event;

    atomic_uint told; /* how many of: */
    struct {
        uint64_t value;
        unsigned size;
    } tell[TOLD];
    uint8_t next;
    atomic_bool stop_wanted, in_handler;
    uint64_t mmio_write[8];
    unsigned mmio_size[8], mmio_writes;
    atomic_int events[2], faults;
    int slot;
} vm;

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    (void)size;
    if (offset == 1)
        return ++vm.next;
    if (offset == 3 && atomic_load(&vm.stop_wanted)) {
        atomic_store(&vm.in_handler, true);
        vcpus_stop_async(vm.vcpus);
        sem_post(&vm.stopped);
        for (unsigned i = 0; i < 1000; i++) /* long enough for a pause that does not wait */
            sched_yield();
        atomic_store(&vm.in_handler, false);
    }
    if (offset == 3)
        return 0x44;
    return all_ones(size);
}

static void port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    (void)opaque;
    if (offset == 0) {
        unsigned n = atomic_load(&vm.told);
        if (n < TOLD) {
            vm.tell[n].value = value;
            vm.tell[n].size = size;
            atomic_store(&vm.told, n + 1);
        }
    } else if (offset == 2) {
        sem_post(&vm.done);
    }
}

static const struct bus_ops port_ops = {.read = port_read, .write = port_write};

static uint64_t mmio_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    (void)offset;
    return 0xa1a2a3a4a5a6a7a8 & all_ones(size);
}

static void mmio_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    (void)opaque;
    cr_assert_lt(vm.mmio_writes, 8);
    vm.mmio_size[vm.mmio_writes] = size;
    vm.mmio_write[vm.mmio_writes++] = value ^ offset << 56;
}

static const struct bus_ops mmio_ops = {.read = mmio_read, .write = mmio_write};

static void on_event(void *opaque, enum vcpu_event event)
{
    (void)opaque;
    atomic_fetch_add(&vm.events[event], 1);
    sem_post(&vm.event);
}

/* Takes the slot at 256 MiB away, once. */
static bool on_fault(void *opaque)
{
    (void)opaque;
    struct hv *hv = kvm_hv(vm.kvm);
    return atomic_fetch_add(&vm.faults, 1) == 0 && hv->ops->slot_remove(hv, vm.slot) == 0;
}

static void wait_for(sem_t *sem, const char *what)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    int ret;
    while ((ret = sem_timedwait(sem, &until)) && errno == EINTR)
        ;
    cr_assert_eq(ret, 0, "the guest gave no sign: %s", what);
}

static void set_up(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        cr_skip_test("/dev/kvm is not usable: %s", strerror(errno));
    close(fd);
    memset(&vm, 0, sizeof(vm));
    sem_init(&vm.done, 0, 0);
    sem_init(&vm.stopped, 0, 0);
    sem_init(&vm.event, 0, 0);
    const struct bus_range ports = {.base = 0x10, .size = 4, .ops = &port_ops, .name = "test"};
    const struct bus_range mmio = {
        .base = 0xd0000000, .size = 0x1000, .ops = &mmio_ops, .name = "test"};
    cr_assert_eq(bus_init(&vm.pio), 0);
    cr_assert_eq(bus_init(&vm.mmio), 0);
    cr_assert_eq(bus_add(&vm.pio, &ports), 0);
    cr_assert_eq(bus_add(&vm.mmio, &mmio), 0);
    cr_assert_eq(mem_init(&vm.mem, 4 * MIB), 0);
}

static void tear_down(void)
{
    vcpus_destroy(vm.vcpus);
    kvm_destroy(vm.kvm);
    mem_fini(&vm.mem);
    bus_fini(&vm.mmio);
    bus_fini(&vm.pio);
}

TestSuite(vcpu, .init = set_up, .fini = tear_down);

static void *at(uint64_t gpa)
{
    void *p = mem_at(&vm.mem, gpa, 0x1000);
    cr_assert_not_null(p);
    return p;
}

/* Descriptors as boot/ writes them: flat code and data for both modes, and tables that map the
 * first 4 GiB by 2 MiB pages. */
static void write_tables(enum entry_mode mode)
{
    const uint64_t gdt[] = {0, 0, mode == ENTRY_LONG ? 0xaf9b000000ffff : 0xcf9b000000ffff,
                            0xcf93000000ffff};
    uint64_t *pml4 = at(0x100000), *pdpt = at(0x101000);

    memcpy(at(0x6000), gdt, sizeof(gdt));
    pml4[0] = 0x101007;
    for (uint64_t i = 0; i < 4; i++) {
        uint64_t *pd = at(0x102000 + i * 0x1000);
        pdpt[i] = (0x102000 + i * 0x1000) | 7;
        for (uint64_t j = 0; j < 512; j++)
            pd[j] = (i << 30 | j << 21) | 0x87;
    }
}

static void place(uint64_t gpa, const uint8_t *from, const uint8_t *to)
{
    memcpy(at(gpa), from, (size_t)(to - from));
}

#define PLACE(gpa, name) place(gpa, guest_##name, guest_##name##_end)

/* A machine of CPUS with a guest at CODE, entered in MODE; not resumed. */
static void make(unsigned cpus, enum cpuid_signature signature, enum entry_mode mode)
{
    struct vcpus_config config = {
        .count = cpus,
        .cpuid = {.signature = signature, .topology = {1, cpus, 1}},
        .pio = &vm.pio,
        .mmio = &vm.mmio,
        .mem = &vm.mem,
        .host_cpus = &vm.host_cpus,
        .pin = vm.pin,
        .event = on_event,
        .fault = on_fault,
    };
    cr_assert_eq(kvm_create(&vm.kvm, cpus), 0);
    struct hv *hv = kvm_hv(vm.kvm);
    cr_assert_eq(hv->ops->slot_add(hv, 0, vm.mem.region[0].hva, vm.mem.size), 0);
    cr_assert_eq(kvm_create_irqchip(vm.kvm), 0);
    cr_assert_eq(vcpus_create(&vm.vcpus, vm.kvm, &config), 0);
    write_tables(mode);
    vm.entry = (struct boot_entry){
        .mode = mode,
        .rip = CODE,
        .rsp = 0x7000,
        .rax = 0xa0a0a0a0,
        .rbx = 0xb0b0,
        .rsi = 0x5151,
        .cr3 = 0x100000,
        .gdt = 0x6000,
        .gdt_limit = 31,
        .code_selector = 0x10,
        .data_selector = 0x18,
    };
    cr_assert_eq(vcpus_load(vm.vcpus, &vm.entry), 0);
    vm.start_error = vcpus_start(vm.vcpus);
    cr_assert(!vm.start_error || vm.pin);
}

static void run_to_done(void)
{
    vcpus_resume(vm.vcpus);
    wait_for(&vm.done, "done");
    vcpus_pause(vm.vcpus);
}

static void reset(void)
{
    cr_assert_eq(kvm_reset_irqchip(vm.kvm), 0);
    cr_assert_eq(vcpus_load(vm.vcpus, &vm.entry), 0);
}

static void expect_told(unsigned i, uint64_t value, unsigned size)
{
    cr_assert_gt(atomic_load(&vm.told), i);
    cr_expect_eq(vm.tell[i].value, value, "told %u: %#llx, not %#llx", i,
                 (unsigned long long)vm.tell[i].value, (unsigned long long)value);
    cr_expect_eq(vm.tell[i].size, size, "told %u", i);
}

/* ---- entry modes and exits ---- */

Test(vcpu, real_mode)
{
    PLACE(CODE + 0x10, real);
    make(1, CPUID_HIDDEN, ENTRY_REAL);
    vm.entry.rip = CODE + 0x10;
    cr_assert_eq(vcpus_load(vm.vcpus, &vm.entry), 0);
    run_to_done();
    expect_told(0, (CODE + 0x10) >> 4, 2);
    expect_told(1, (CODE + 0x10) >> 4, 2);
    expect_told(2, 0x12345678, 4);
    expect_told(3, 1, 1);
    cr_expect_eq(vm.tell[4].value & 0xe0000001, 0, "caches on, no paging, real mode");
    cr_expect_eq(vm.told, 5);
}

Test(vcpu, string_io_is_one_access_per_item)
{
    PLACE(CODE, strings);
    memcpy(at(0x2000), "\x01\x02\x03\x04\x05\x06", 6);
    make(1, CPUID_HIDDEN, ENTRY_REAL);
    run_to_done();
    expect_told(0, 0x0201, 2);
    expect_told(1, 0x0403, 2);
    expect_told(2, 0x0605, 2);
    expect_told(3, 0x04030201, 4);
    cr_expect_eq(vm.told, 4);
}

Test(vcpu, protected_mode)
{
    PLACE(CODE, protected);
    make(1, CPUID_HIDDEN, ENTRY_PROTECTED);
    run_to_done();
    cr_expect_eq(vm.tell[0].value & 0xe0000001, 1, "protected, no paging, caches on");
    expect_told(1, 0xb0b0, 4);
    expect_told(2, 0x10, 2);
    expect_told(3, 0x18, 2);
    expect_told(4, 0x7000, 4);
    expect_told(5, 0xa0a0a0a0, 4);
}

Test(vcpu, long_mode)
{
    PLACE(CODE, long);
    make(1, CPUID_HIDDEN, ENTRY_LONG);
    run_to_done();
    expect_told(0, 0x11223344, 4);
    expect_told(1, 0x5151, 4);
    cr_expect_eq(vm.tell[2].value & 0xe0000001, 0x80000001, "protected, paging, caches on");
    expect_told(3, 0x20, 4);
    expect_told(4, 0x500, 4);
    expect_told(5, 0x77, 1);
}

Test(vcpu, mmio_of_every_size)
{
    PLACE(CODE, mmio);
    make(1, CPUID_HIDDEN, ENTRY_LONG);
    run_to_done();
    cr_assert_eq(vm.mmio_writes, 4);
    const uint64_t want[] = {0x88, 0x7788, 0x55667788, 0x1122334455667788};
    const uint64_t offset[] = {0, 2, 4, 8};
    for (unsigned i = 0; i < 4; i++) {
        cr_expect_eq(vm.mmio_write[i], want[i] ^ offset[i] << 56);
        cr_expect_eq(vm.mmio_size[i], 1U << i);
    }
    expect_told(0, 0xa8, 1);
    expect_told(1, 0xa7a8, 2);
    expect_told(2, 0xa5a6a7a8, 4);
    expect_told(3, 0xa5a6a7a8, 4);
    expect_told(4, 0xa1a2a3a4, 4);
    expect_told(5, 0xffffffff, 4);
}

static void add_accesses(void *opaque, const struct bus_range *range, uint64_t accesses)
{
    cr_expect_str_eq(range->name, "test");
    *(uint64_t *)opaque += accesses;
}

/* What the guest above does: 10 accesses of memory, two of them where nothing is, 7 of ports.
 */
Test(vcpu, exits_are_counted)
{
    uint64_t ports = 0, memory = 0;
    PLACE(CODE, mmio);
    make(2, CPUID_HIDDEN, ENTRY_LONG);
    struct vcpus_counters c = vcpus_count(vm.vcpus);
    cr_expect_eq(c.exits[VCPU_EXIT_PORT] + c.exits[VCPU_EXIT_MMIO], 0);
    vcpus_resume(vm.vcpus);
    wait_for(&vm.done, "done");
    vcpus_count(vm.vcpus); /* does not wait for a vCPU that waits in the guest */
    vcpus_pause(vm.vcpus);
    c = vcpus_count(vm.vcpus);
    cr_expect_eq(c.exits[VCPU_EXIT_PORT], 7);
    cr_expect_eq(c.exits[VCPU_EXIT_MMIO], 10);
    cr_expect_geq(c.exits[VCPU_EXIT_KICK], 1, "the pause");
    bus_count(&vm.pio, add_accesses, &ports);
    bus_count(&vm.mmio, add_accesses, &memory);
    cr_expect_eq(ports, 7);
    cr_expect_eq(memory, 8);
}

/* ---- pause, resume, stop ---- */

static uint32_t counter(void)
{
    return atomic_load((_Atomic uint32_t *)at(0x2000));
}

/* That a spinning guest goes on; bounded by the guard of wait_for(). */
static void wait_for_progress(void)
{
    uint32_t before = counter();
    for (unsigned i = 0; i < 100000000 && counter() == before; i++)
        sched_yield();
    cr_expect_neq(counter(), before, "the guest stands");
}

Test(vcpu, pause_stops_a_guest_that_never_exits)
{
    PLACE(CODE, spin);
    make(1, CPUID_HIDDEN, ENTRY_REAL);
    vcpus_resume(vm.vcpus);
    wait_for(&vm.done, "spinning");
    for (unsigned i = 0; i < 200; i++) {
        if (i % 50 == 0)
            wait_for_progress();
        vcpus_pause(vm.vcpus);
        uint32_t before = counter();
        for (unsigned j = 0; j < 50; j++)
            sched_yield();
        cr_assert_eq(counter(), before, "the guest runs while paused");
        vcpus_resume(vm.vcpus);
    }
    vcpus_pause(vm.vcpus);
    vcpus_pause(vm.vcpus); /* twice is once */
}

Test(vcpu, destroy_stops_what_runs)
{
    PLACE(CODE, spin);
    make(1, CPUID_HIDDEN, ENTRY_REAL);
    vcpus_resume(vm.vcpus);
    wait_for(&vm.done, "spinning");
    vcpus_destroy(vm.vcpus);
    vm.vcpus = NULL;
    uint32_t before = counter();
    sched_yield();
    cr_expect_eq(counter(), before);
}

Test(vcpu, nothing_runs_before_resume)
{
    PLACE(CODE, spin);
    make(3, CPUID_HIDDEN, ENTRY_REAL);
    vcpus_pause(vm.vcpus);
    cr_expect_eq(counter(), 0);
    vcpus_stop_async(NULL);
}

/* The read that asks for the stop is complete before the state of a reset is loaded. */
Test(vcpu, reset_from_inside_an_access)
{
    PLACE(CODE, stopper);
    make(1, CPUID_HIDDEN, ENTRY_REAL);
    atomic_store(&vm.stop_wanted, true);
    for (unsigned i = 0; i < 3; i++) {
        vcpus_resume(vm.vcpus);
        wait_for(&vm.stopped, "stop asked for");
        vcpus_pause(vm.vcpus);
        cr_expect_not(atomic_load(&vm.in_handler), "a handler runs while paused");
        cr_expect_eq(atomic_load(&vm.told), i + 1, "it ran on after the stop");
        reset();
    }
    atomic_store(&vm.stop_wanted, false);
    run_to_done();
    expect_told(0, 1, 1);
    expect_told(1, 2, 1);
    expect_told(2, 3, 1);
    expect_told(3, 4, 1);
    expect_told(4, 0x3344, 2);
}

Test(vcpu, stop_and_resume_goes_on_behind_the_access)
{
    PLACE(CODE, stopper);
    make(1, CPUID_HIDDEN, ENTRY_REAL);
    atomic_store(&vm.stop_wanted, true);
    vcpus_resume(vm.vcpus);
    wait_for(&vm.stopped, "stop asked for");
    vcpus_pause(vm.vcpus);
    run_to_done();
    expect_told(0, 1, 1);
    expect_told(1, 0x3344, 2);
}

/* ---- where the threads run ---- */

/* Standard error goes to a file while FN runs; its text comes back. */
static const char *stderr_of(void (*fn)(void))
{
    static char text[8192];
    int file = memfd_create("stderr", MFD_CLOEXEC), saved = dup(STDERR_FILENO);
    dup2(file, STDERR_FILENO);
    fn();
    dup2(saved, STDERR_FILENO);
    ssize_t n = pread(file, text, sizeof(text) - 1, 0);
    text[MAX(n, 0)] = 0;
    close(file);
    close(saved);
    return text;
}

/* The one CPU that the thread NAME may use; -1: none or several. */
static int cpu_of(const char *name)
{
    struct dirent **entry;
    int cpu = -1, nr = scandir("/proc/self/task", &entry, NULL, NULL);
    cr_assert_gt(nr, 0);
    for (int i = 0; i < nr; i++) {
        char path[300], comm[32] = "";
        cpu_set_t set;
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry[i]->d_name);
        FILE *f = fopen(path, "re");
        if (f && fgets(comm, sizeof(comm), f) && !strncmp(comm, name, strlen(name)) &&
            !sched_getaffinity(atoi(entry[i]->d_name), sizeof(set), &set) &&
            CPU_COUNT(&set) == 1) {
            for (cpu = 0; !CPU_ISSET(cpu, &set);)
                cpu++;
        }
        if (f)
            fclose(f);
        free(entry[i]);
    }
    free(entry);
    return cpu;
}

/* This process's first and last CPU, which may be one. */
static void two_cpus(uint16_t *first, uint16_t *last)
{
    cpu_set_t set;
    cr_assert_eq(sched_getaffinity(0, sizeof(set), &set), 0);
    for (uint16_t i = CPU_SETSIZE; i-- > 0;) {
        if (CPU_ISSET(i, &set)) {
            *last = CPU_COUNT(&set) > 1 && *last ? *last : i;
            *first = i;
        }
    }
}

Test(vcpu, a_cpu_of_the_host_for_each)
{
    uint16_t first = 0, last = 0;
    two_cpus(&first, &last);
    vm.pin = true;
    vm.host_cpus = (struct cpu_list){.nr = 3, .cpu = {last, first, first}};
    PLACE(CODE, smp);
    PLACE(0x9000, smp_second);
    make(2, CPUID_HIDDEN, ENTRY_PROTECTED);
    run_to_done();
    vcpus_resume(vm.vcpus); /* so that they have their names */
    cr_expect_eq(cpu_of("vcpu0"), last);
    cr_expect_eq(cpu_of("vcpu1"), first);
}

Test(vcpu, all_on_the_cpus_of_a_node)
{
    uint16_t first = 0, last = 0;
    two_cpus(&first, &last);
    vm.host_cpus = (struct cpu_list){.nr = 1, .cpu = {last}};
    PLACE(CODE, smp);
    PLACE(0x9000, smp_second);
    make(2, CPUID_HIDDEN, ENTRY_PROTECTED);
    run_to_done();
    cr_expect_eq(cpu_of("vcpu0"), last);
    cr_expect_eq(cpu_of("vcpu1"), last);
}

static void make_two(void)
{
    make(2, CPUID_HIDDEN, ENTRY_REAL);
}

/* An order that cannot be carried out is an error; a node that cannot be had is not. */
Test(vcpu, cpus_that_are_not_there)
{
    PLACE(CODE, real);
    vm.pin = true;
    vm.host_cpus = (struct cpu_list){.nr = 2, .cpu = {8191, 8191}};
    const char *text = stderr_of(make_two);
    cr_expect_eq(vm.start_error, -EINVAL);
    cr_expect_str_eq(text,
                     "minivmm: vcpu0: cannot run on the host's CPU 8191: Invalid argument; "
                     "give CPUs that are online and that this process may use (taskset "
                     "-cp $$ shows them)\n");
    vcpus_destroy(vm.vcpus);
    kvm_destroy(vm.kvm);
    vm.pin = false;
    text = stderr_of(make_two);
    cr_expect_eq(vm.start_error, 0);
    cr_expect_str_eq(text, "minivmm: --numa: cannot run the vCPUs on the node's CPUs: Invalid "
                           "argument\n");
    run_to_done();
}

/* ---- reset ---- */

Test(vcpu, reset_leaves_nothing_of_the_boot_before)
{
    const uint32_t msr[][3] = {
        /* index, a guest's value, power-on */
        {0x174, 0x1111, 0},
        {0x175, 0x2222, 0},
        {0x176, 0x3333, 0},
        {0xc0000081, 0x4444, 0},
        {0xc0000082, 0x5555, 0},
        {0xc0000084, 0x6666, 0},
        {0xc0000102, 0x7777, 0},
        {0x277, 0, 0x00070406},
        {0x2ff, 0xc00, 0x806},
        {0x200, 0xd0000006, 0},
        {0x250, 0x06060606, 0},
        {0x3b, 0x123, 0},
        {0x1a0, 0x1800, 0x1801},
        {0x1b, 0xfee00d00, 0xfee00900}, /* from here on in x2APIC mode: */
        {0x80f, 0x1ff, 0xff},           /* spurious vector, software enable */
        {0x808, 0x20, 0},               /* task priority */
        {0x832, 0x30, 0x10000},         /* LVT timer */
    };
    uint32_t *list = at(0x2000);
    unsigned n = ARRAY_SIZE(msr);

    PLACE(CODE, state);
    for (unsigned i = 0; i < n; i++) {
        list[2 * i] = msr[i][0];
        list[2 * i + 1] = msr[i][1];
    }
    make(1, CPUID_HIDDEN, ENTRY_REAL);
    for (unsigned boot = 0; boot < 2; boot++) {
        run_to_done();
        unsigned base = boot * (n + 4);
        for (unsigned i = 0; i < n; i++) {
            cr_assert_gt(atomic_load(&vm.told), base + i);
            cr_expect_eq(vm.tell[base + i].value, msr[i][2], "boot %u: MSR %#x is %#llx", boot,
                         msr[i][0], (unsigned long long)vm.tell[base + i].value);
        }
        expect_told(base + n, 0, 4);
        expect_told(base + n + 1, 0, 4);
        expect_told(base + n + 2, 0, 4);
        cr_expect_eq(vm.tell[base + n + 3].value & 0x602, 2, "no DF, no IF");
        reset();
    }
}

Test(vcpu, second_cpu_by_init_and_sipi_also_after_reset)
{
    PLACE(CODE, smp);
    PLACE(0x9000, smp_second);
    PLACE(0, smp_astray);
    make(2, CPUID_HIDDEN, ENTRY_PROTECTED);
    for (unsigned boot = 0; boot < 3; boot++) {
        run_to_done();
        expect_told(2 * boot, 0xb, 1);
        expect_told(2 * boot + 1, 0xa, 1);
        cr_expect_eq(atomic_load(&vm.told), 2 * boot + 2);
        reset();
    }
}

/* The first CPU tells 0xb and wakes that of APIC id 300 in x2APIC mode: the ICR is one MSR of
 * 64 bits. */
GUEST(far, ".code32\n"
           "movb $0xb, %al\n outb %al, $0x10\n"
           "movl $0x1b, %ecx\n rdmsr\n orl $0x400, %eax\n wrmsr\n"
           "movl $0x80f, %ecx\n movl $0x1ff, %eax\n xorl %edx, %edx\n wrmsr\n"
           "movl $0x830, %ecx\n movl $300, %edx\n movl $0x4500, %eax\n wrmsr\n"
           "movl $0x4609, %eax\n wrmsr\n"
           "99: jmp 99b\n");

Test(vcpu, cpu_beyond_what_eight_bits_can_name)
{
    PLACE(CODE, far);
    PLACE(0x9000, smp_second);
    PLACE(0, smp_astray);
    make(301, CPUID_HIDDEN, ENTRY_PROTECTED);
    run_to_done();
    expect_told(0, 0xb, 1);
    expect_told(1, 0xa, 1);
    cr_expect_eq(atomic_load(&vm.told), 2);
}

/* ---- CPUID ---- */

Test(vcpu, hidden_hypervisor)
{
    PLACE(CODE, cpuid);
    make(1, CPUID_HIDDEN, ENTRY_REAL);
    vm.entry.rip = CODE;
    run_to_done();
    expect_told(0, 0, 1);
    expect_told(1, 0, 1);
    cr_expect_neq(vm.tell[2].value, get_le32("KVMK"));
    expect_told(3, 0x0d, 1);
}

Test(vcpu, shown_hypervisor)
{
    PLACE(CODE, cpuid);
    make(1, CPUID_KVM, ENTRY_REAL);
    run_to_done();
    expect_told(0, 1, 1);
    expect_told(2, get_le32("KVMK"), 4);
    expect_told(3, 0x10, 1);
}

/* ---- interrupts ---- */

/* An IDT at 0x5000 whose vector 0x40 is at CODE + 0x80, and its descriptor at 0x4ff0. */
static void write_idt(void)
{
    uint8_t *idt = at(0x5000), *descriptor = (uint8_t *)at(0x4000) + 0xff0;
    put_le64(idt + 0x40 * 8, 0x8e0000000000ULL | 0x10 << 16 | (CODE + 0x80));
    put_le16(descriptor, 0x41 * 8 - 1);
    put_le32(descriptor + 2, 0x5000);
}

static void expect_interrupts(unsigned n, uint8_t vector)
{
    wait_for(&vm.done, "interrupt");
    expect_told(n - 1, vector, 1);
    cr_expect_eq(atomic_load(&vm.told), n);
}

Test(vcpu, message_by_irqfd)
{
    const struct hv_msi msi = {.address = 0xfee00000, .data = 0x40};
    /* The upper half is what a guest may write there; it is no part of an id. */
    const struct hv_msi other = {.address = 0xffffff00fee00000, .data = 0x40};
    const struct hv_msi elsewhere = {.address = 0xfee05000, .data = 0x40};

    PLACE(CODE, interrupts);
    write_idt();
    make(1, CPUID_HIDDEN, ENTRY_PROTECTED);
    struct hv *hv = kvm_hv(vm.kvm);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int gsi = hv->ops->route_add(hv, &msi);
    cr_assert_eq(gsi, LAYOUT_GSI_COUNT);
    cr_assert_eq(hv->ops->irqfd_add(hv, fd, (uint32_t)gsi, -1), 0);
    vcpus_resume(vm.vcpus);
    wait_for(&vm.done, "ready");

    eventfd_write(fd, 1);
    expect_interrupts(1, 0x40);
    cr_expect_eq(hv->ops->route_update(hv, (uint32_t)gsi, &other), 0);
    eventfd_write(fd, 1);
    expect_interrupts(2, 0x40);

    /* Detached, it latches; attached again, it is delivered. */
    cr_expect_eq(hv->ops->irqfd_remove(hv, fd, (uint32_t)gsi), 0);
    eventfd_write(fd, 1);
    vcpus_pause(vm.vcpus);
    cr_expect_eq(atomic_load(&vm.told), 2);
    vcpus_resume(vm.vcpus);
    cr_expect_eq(hv->ops->irqfd_add(hv, fd, (uint32_t)gsi, -1), 0);
    expect_interrupts(3, 0x40);

    /* Another CPU's; then back. The write between must not arrive. */
    cr_expect_eq(hv->ops->route_update(hv, (uint32_t)gsi, &elsewhere), 0);
    eventfd_write(fd, 1);
    cr_expect_eq(hv->ops->irqfd_remove(hv, fd, (uint32_t)gsi), 0);
    cr_expect_eq(hv->ops->route_update(hv, (uint32_t)gsi, &msi), 0);
    cr_expect_eq(hv->ops->irqfd_add(hv, fd, (uint32_t)gsi, -1), 0);
    eventfd_write(fd, 1);
    expect_interrupts(4, 0x40);
    close(fd);
    struct vcpus_counters count = vcpus_count(vm.vcpus);
    if (count.knows_interrupts)
        cr_expect_eq(count.interrupts, 4, "%llu", (unsigned long long)count.interrupts);
}

Test(vcpu, line_through_the_pic)
{
    PLACE(CODE, pic);
    make(1, CPUID_HIDDEN, ENTRY_REAL);
    struct irq_line line = {.hv = kvm_hv(vm.kvm), .gsi = LAYOUT_GSI_COM1};
    vcpus_resume(vm.vcpus);
    wait_for(&vm.done, "ready");
    for (unsigned i = 1; i <= 3; i++) {
        irq_line_set(&line, true);
        irq_line_set(&line, false);
        expect_interrupts(i, 0x24);
    }
    /* After a reset the PIC is as at power-on: the guest's set-up works again. */
    vcpus_pause(vm.vcpus);
    reset();
    vcpus_resume(vm.vcpus);
    wait_for(&vm.done, "ready again");
    irq_line_set(&line, true);
    irq_line_set(&line, false);
    expect_interrupts(4, 0x24);
}

Test(vcpu, timer_comes_by_pin_2_of_the_ioapic)
{
    PLACE(CODE, timer);
    write_idt();
    make(1, CPUID_HIDDEN, ENTRY_PROTECTED);
    for (unsigned boot = 0; boot < 5; boot++) { /* mostly with one in service at the end */
        run_to_done();
        expect_told(0, 0x40, 1);
        reset();
        while (sem_trywait(&vm.done) == 0)
            ;
        atomic_store(&vm.told, 0);
    }

    /* A reset stops the timer and masks the pin. */
    PLACE(CODE, interrupts);
    run_to_done();
    cr_expect_eq(atomic_load(&vm.told), 0);
}

/* ---- what ends it ---- */

static void crash_once(void)
{
    vcpus_resume(vm.vcpus);
    wait_for(&vm.event, "crash");
    vcpus_pause(vm.vcpus);
}

/* The software KVM of some machines reports a triple fault as an emulation failure. */
Test(vcpu, crash_stops_it_until_it_is_loaded_again)
{
    PLACE(CODE, crash);
    make(1, CPUID_HIDDEN, ENTRY_PROTECTED);
    const char *text = stderr_of(crash_once);
    cr_expect_eq(vm.events[VCPU_SHUTDOWN] + vm.events[VCPU_ERROR], 1);
    if (vm.events[VCPU_ERROR]) {
        unsigned lines = 0;
        for (const char *p = text; (p = strchr(p, '\n')); p++)
            lines++;
        cr_expect_lt(lines, 24, "%s", text);
        cr_expect_not_null(strstr(text, "minivmm: vcpu0: cannot run the guest: exit 17"), "%s",
                           text);
        cr_expect_not_null(strstr(text, "rip 0000000000008007"), "%s", text);
        cr_expect_not_null(strstr(text, "8007 (guest physical 8007): 0f 0b"), "%s", text);
    }
    vcpus_resume(vm.vcpus);
    sched_yield();
    vcpus_pause(vm.vcpus);
    cr_expect_eq(vm.events[VCPU_SHUTDOWN] + vm.events[VCPU_ERROR], 1, "it stays stopped");

    PLACE(CODE, protected);
    reset();
    run_to_done();
    expect_told(1, 0xb0b0, 4);
}

static void *unmapped_slot(void)
{
    struct hv *hv = kvm_hv(vm.kvm);
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(page, MAP_FAILED);
    vm.slot = hv->ops->slot_add(hv, 0x10000000, page, 4096);
    cr_assert_geq(vm.slot, 1);
    munmap(page, 4096);
    return page;
}

Test(vcpu, memory_that_is_gone_reads_as_nothing)
{
    PLACE(CODE, read_high);
    make(1, CPUID_HIDDEN, ENTRY_LONG);
    unmapped_slot();
    run_to_done();
    cr_expect_eq(vm.faults, 1);
    expect_told(0, 0xffffffff, 4);
}

Test(vcpu, memory_that_is_gone_for_good_is_an_error)
{
    PLACE(CODE, read_high);
    make(1, CPUID_HIDDEN, ENTRY_LONG);
    atomic_store(&vm.faults, 1); /* the callback can change nothing */
    unmapped_slot();
    const char *text = stderr_of(crash_once);
    cr_expect_eq(vm.events[VCPU_ERROR], 1);
    cr_expect_not_null(strstr(text, "minivmm: vcpu0: cannot run the guest: "), "%s", text);
    cr_expect(strstr(text, "MEMORY_FAULT") || strstr(text, "Bad address"), "%s", text);
}

Test(vcpu, two_machines_in_one_process)
{
    struct vcpus *first;
    struct kvm *first_kvm;
    PLACE(CODE, spin);
    make(1, CPUID_HIDDEN, ENTRY_REAL);
    first = vm.vcpus;
    first_kvm = vm.kvm;
    make(1, CPUID_HIDDEN, ENTRY_REAL); /* of the same RAM, too */
    vcpus_resume(first);
    vcpus_resume(vm.vcpus);
    wait_for(&vm.done, "one");
    wait_for(&vm.done, "the other");
    vcpus_destroy(first);
    kvm_destroy(first_kvm);
}
