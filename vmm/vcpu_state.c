/*
 * vcpu_state.c: the power-on state of a vCPU, and a report of its registers.
 *
 * Power-on values: Intel SDM volume 3A, "Processor State After Reset" (table of "IA-32 and
 * Intel 64 Processor States Following Power-up, Reset, or INIT") and "Local APIC State After
 * Power-Up or Reset"; where the kernel is entered in protected or 64-bit mode, what its boot
 * protocol asks for instead (boot/ describes it in entry.h). One code serves the first start
 * and every guest reset: on a reset all that a guest can have changed is put back, so that
 * nothing of the boot before survives - also what only KVM's own guests use: its clock would go
 * on writing into the memory of the next boot.
 *
 * Left out: machine-check banks (a warm reset keeps them), nested virtualisation and SMM (not
 * offered). Called by the main thread while the vCPU is not running; no lock.
 */
#include "vmm/vcpu_state.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/entry.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/mem.h"
#include "vmm/util.h"

/* ---- model-specific registers ---- */

/* Names as in the kernel's asm/msr-index.h, which is no part of its UAPI. */
static const struct msr_row {
    uint32_t index;
    unsigned count; /* that many from INDEX on */
    bool first;     /* KVM's own power-on value is another: load it at the first start too */
    uint64_t value;
} msr_row[] = {
    /* MTRRs enabled, write-back everywhere, no range in use: what firmware would leave. With
     * MTRRs off, Linux before 6.2 leaves the PAT alone too and cannot map a BAR
     * write-combining. MISC_ENABLE: fast strings; BTS and PEBS are unavailable. */
    {0x2ff, 1, true, 0x806},  /* MTRRdefType */
    {0x1a0, 1, true, 0x1801}, /* IA32_MISC_ENABLE */
    {0x200, 16, false, 0},    /* MTRRphysBase0.. */
    {0x250, 1, false, 0},     /* MTRRfix64K */
    {0x258, 2, false, 0},     /* MTRRfix16K */
    {0x268, 8, false, 0},     /* MTRRfix4K */
    {0x277, 1, false, 0x0007040600070406},
    /* Entry points and bases that a kernel has set. */
    {0x174, 3, false, 0},      /* IA32_SYSENTER_CS, ESP, EIP */
    {0xc0000081, 4, false, 0}, /* STAR, LSTAR, CSTAR, SYSCALL_MASK */
    {0xc0000102, 1, false, 0}, /* KERNEL_GS_BASE; FS and GS are segments' */
    {0xc0000103, 1, false, 0}, /* TSC_AUX */
    /* Time; 0 in the TSC also makes KVM align the vCPUs' counters. */
    {0x10, 1, false, 0},  /* TSC */
    {0x3b, 1, false, 0},  /* TSC_ADJUST */
    {0x6e0, 1, false, 0}, /* TSC_DEADLINE */
    /* Controls that change how everything after them behaves. */
    {0x3a, 1, false, 0},       /* FEAT_CTL: unlocked */
    {0x48, 1, false, 0},       /* SPEC_CTRL */
    {0xe1, 1, false, 0},       /* UMWAIT_CONTROL */
    {0x122, 1, false, 0},      /* TSX_CTRL */
    {0x140, 1, false, 0},      /* MISC_FEATURES_ENABLES: CPUID faulting */
    {0x17a, 1, false, 0},      /* MCG_STATUS */
    {0x1d9, 1, false, 0},      /* DEBUGCTLMSR */
    {0xd90, 1, false, 0},      /* BNDCFGS */
    {0xda0, 1, false, 0},      /* XSS */
    {0xc001011f, 1, false, 0}, /* VIRT_SPEC_CTRL */
    {0x6a0, 1, false, 0},      /* U_CET */
    {0x6a2, 1, false, 0},      /* S_CET */
    {0x6a4, 5, false, 0},      /* PL0_SSP to PL3_SSP, INT_SSP_TAB */
    {0xc0010000, 8, false, 0}, /* K7_EVNTSEL0.., K7_PERFCTR0..: KVM has them on AMD */
    /* What KVM would go on writing into guest memory. */
    {0x12, 1, false, 0},       /* KVM_SYSTEM_TIME */
    {0x4b564d01, 1, false, 0}, /* KVM_SYSTEM_TIME_NEW */
    {0x4b564d02, 1, false, 0}, /* KVM_ASYNC_PF_EN */
    {0x4b564d03, 1, false, 0}, /* KVM_STEAL_TIME */
    {0x4b564d04, 1, false, 0}, /* KVM_PV_EOI_EN */
    {0x4b564d05, 1, false, 1}, /* KVM_POLL_CONTROL */
    {0x4b564d06, 1, false, 0}, /* KVM_ASYNC_PF_INT */
};

/* REQUEST is KVM_GET_MSRS or KVM_SET_MSRS. False when KVM refuses it: which MSRs a vCPU has
 * depends on the host and on its CPUID. */
static bool access_msr(int fd, unsigned long request, uint32_t index, uint64_t *value)
{
    union {
        struct kvm_msrs msrs;
        uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
    } u = {.msrs.nmsrs = 1};

    u.msrs.entries[0] = (struct kvm_msr_entry){.index = index, .data = *value};
    bool ok = ioctl(fd, request, &u) == 1;
    *value = u.msrs.entries[0].data;
    return ok;
}

/* After a boot, what is as it should be is not written: KVM tells the host's log of some
 * writes.
 */
static void reset_msr(int fd, const char *name, uint32_t index, uint64_t value, bool first)
{
    uint64_t now = 0;
    if (!first && (!access_msr(fd, KVM_GET_MSRS, index, &now) || now == value))
        return;
    if (!access_msr(fd, KVM_SET_MSRS, index, &value))
        log_debug(name, "cannot reset MSR 0x%x: KVM refuses 0x%" PRIx64, index, value);
}

static void set_msrs(int fd, const char *name, bool first)
{
    for (size_t i = 0; i < ARRAY_SIZE(msr_row); i++) {
        const struct msr_row *row = &msr_row[i];
        if (first && !row->first)
            continue;
        for (uint32_t n = 0; n < row->count; n++)
            reset_msr(fd, name, row->index + n, row->value, first);
    }
}

/* ---- registers and segments ---- */

enum { /* type field of a descriptor, accessed */
       SEG_DATA = 3,
       SEG_LDT = 2,
       SEG_TSS_BUSY = 11, /* any other type fails VMX's checks of the guest's state */
       SEG_CODE = 11,
};

enum {
    CR0_PE = 1 << 0,
    CR0_ET = 1 << 4,
    CR4_PAE = 1 << 5,
    EFER_LME = 1 << 8,
    EFER_LMA = 1 << 10,
    RFLAGS_1 = 1 << 1, /* always set */
    APIC_BASE_BSP = 1 << 8,
    APIC_BASE_ENABLE = 1 << 11,
};
#define CR0_PG (1U << 31)

static void real_segments(struct kvm_sregs *s, uint64_t rip)
{
    s->cs = (struct kvm_segment){
        .base = rip & ~0xfULL,
        .limit = 0xffff,
        .selector = (uint16_t)(rip >> 4),
        .type = SEG_CODE,
        .present = 1,
        .s = 1,
    };
    s->ds = s->cs;
    s->ds.type = SEG_DATA;
    s->idt.limit = 0x3ff;
}

static void flat_segments(struct kvm_sregs *s, const struct boot_entry *entry)
{
    s->cs = (struct kvm_segment){
        .limit = 0xffffffff,
        .selector = entry->code_selector,
        .type = SEG_CODE,
        .present = 1,
        .s = 1,
        .g = 1,
    };
    s->ds = s->cs;
    s->ds.selector = entry->data_selector;
    s->ds.type = SEG_DATA;
    s->ds.db = 1;
    s->gdt.base = entry->gdt;
    s->gdt.limit = entry->gdt_limit;
    s->cr0 |= CR0_PE;
    if (entry->mode == ENTRY_PROTECTED) {
        s->cs.db = 1;
        return;
    }
    s->cs.l = 1;
    s->cr0 |= CR0_PG;
    s->cr3 = entry->cr3;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
}

/* CR0 without CD and NW, as firmware leaves it: caches are on. */
static struct kvm_sregs entry_sregs(uint32_t apic_id, const struct boot_entry *entry)
{
    struct kvm_sregs s = {
        .cr0 = CR0_ET,
        .tr = {.limit = 0xffff, .type = SEG_TSS_BUSY, .present = 1},
        .ldt = {.limit = 0xffff, .type = SEG_LDT, .present = 1},
        .apic_base = LAYOUT_LAPIC | APIC_BASE_ENABLE | (apic_id ? 0 : APIC_BASE_BSP),
    };
    if (entry->mode == ENTRY_REAL)
        real_segments(&s, entry->rip);
    else
        flat_segments(&s, entry);
    s.es = s.fs = s.gs = s.ss = s.ds;
    return s;
}

static struct kvm_regs entry_regs(const struct boot_entry *entry)
{
    return (struct kvm_regs){
        .rip = entry->mode == ENTRY_REAL ? entry->rip & 0xf : entry->rip,
        .rsp = entry->rsp,
        .rax = entry->rax,
        .rbx = entry->rbx,
        .rsi = entry->rsi,
        .rflags = RFLAGS_1,
    };
}

/* ---- the local APIC ---- */

/* Everything not named here is zero. LINT0 of the first CPU passes the PIC's interrupts on
 * (ExtINT), as KVM starts it and firmware leaves it. */
static struct kvm_lapic_state lapic_state(uint32_t apic_id)
{
    const struct {
        unsigned offset;
        uint32_t value;
    } row[] = {
        {0x020, apic_id << 24},              /* ID: its low byte */
        {0x030, 0x00050014},                 /* version; KVM puts its own */
        {0x0e0, UINT32_MAX},                 /* destination format: flat */
        {0x0f0, 0xff},                       /* spurious vector; software-disabled */
        {0x2f0, 1 << 16},                    /* LVT CMCI: masked */
        {0x320, 1 << 16},                    /* LVT timer */
        {0x330, 1 << 16},                    /* LVT thermal */
        {0x340, 1 << 16},                    /* LVT performance */
        {0x350, apic_id ? 1 << 16 : 7 << 8}, /* LVT LINT0 */
        {0x360, 1 << 16},                    /* LVT LINT1 */
        {0x370, 1 << 16},                    /* LVT error */
    };
    struct kvm_lapic_state lapic = {0};
    for (size_t i = 0; i < ARRAY_SIZE(row); i++)
        put_le32(&lapic.regs[row[i].offset], row[i].value);
    return lapic;
}

/* ---- the whole ---- */

/* FCW and MXCSR at their initial values, every other component by its clear bit in XSTATE_BV.
 */
static struct kvm_xsave xsave_state(void)
{
    struct kvm_xsave x = {0};
    x.region[0] = 0x37f;
    x.region[24 / 4] = 0x1f80;
    return x;
}

int vcpu_state_load(int fd, const char *name, uint32_t apic_id, const struct boot_entry *entry,
                    bool first)
{
    static const struct boot_entry waiting = {.mode = ENTRY_REAL}; /* INIT and SIPI set it */
    const struct boot_entry *at = apic_id ? &waiting : entry;
    const struct kvm_sregs sregs = entry_sregs(apic_id, at);
    const struct kvm_regs regs = entry_regs(at);
    const struct kvm_lapic_state lapic = lapic_state(apic_id);
    const struct kvm_xsave xsave = xsave_state();
    const struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0].value = 1}; /* x87 only */
    const struct kvm_debugregs debug = {.dr6 = 0xffff0ff0, .dr7 = 0x400};
    const struct kvm_vcpu_events events = {
        /* none; no NMI, SMI or INIT latched either */
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
                 KVM_VCPUEVENT_VALID_SMM,
    };
    const struct kvm_mp_state mp = {apic_id ? KVM_MP_STATE_UNINITIALIZED
                                            : KVM_MP_STATE_RUNNABLE};
    const struct {
        unsigned long request;
        const void *state;
        const char *what;
        bool first;
    } step[] = {
        /* leaving x2APIC mode (sregs) comes before the APIC's registers */
        {KVM_SET_SREGS, &sregs, "control registers and segments", !apic_id},
        {KVM_SET_REGS, &regs, "registers", !apic_id},
        {KVM_SET_LAPIC, &lapic, "local APIC", false},
        {KVM_SET_XSAVE, &xsave, "floating-point state", false},
        {KVM_SET_XCRS, &xcrs, "XCR0", false},
        {KVM_SET_DEBUGREGS, &debug, "debug registers", false},
        {KVM_SET_VCPU_EVENTS, &events, "pending events", false},
        {KVM_SET_MP_STATE, &mp, "run state", false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(step); i++) {
        if (first && !step[i].first)
            continue;
        if (ioctl(fd, step[i].request, step[i].state) == 0)
            continue;
        if (step[i].request == KVM_SET_XCRS && errno == EINVAL)
            continue; /* the host has no XSAVE, so there is no XCR0 */
        int err = -errno;
        log_error(name, "cannot load %s: %s; start anew, or use a newer kernel", step[i].what,
                  strerror(-err));
        return err;
    }
    set_msrs(fd, name, first);
    return 0;
}

/* ---- the report ---- */

static void report_segment(const char *name, const char *seg, const struct kvm_segment *s)
{
    log_error(name, "%-3s %04x base %016llx limit %08x type %x%s dpl %u%s%s%s%s", seg,
              s->selector, s->base, s->limit, s->type, s->s ? "" : " system", s->dpl,
              s->present ? "" : " not-present", s->db ? " 32" : "", s->l ? " 64" : "",
              s->unusable ? " unusable" : "");
}

/* The bytes at RIP, as far as its page goes: the vCPU cannot have fetched others of it there.
 */
static void report_code(int fd, const char *name, const struct mem *mem, uint64_t linear)
{
    struct kvm_translation t = {.linear_address = linear};
    uint64_t n = MIN(15ULL, LAYOUT_PAGE_SIZE - linear % LAYOUT_PAGE_SIZE);
    char text[3 * 15 + 1] = "";
    if (ioctl(fd, KVM_TRANSLATE, &t) || !t.valid) {
        log_error(name, "code at %016" PRIx64 ": not mapped", linear);
        return;
    }
    const uint8_t *code = mem ? mem_at(mem, t.physical_address, n) : NULL;
    for (uint64_t i = 0; code && i < n; i++)
        snprintf(text + 3 * i, 4, " %02x", code[i]);
    log_error(name, "code at %016" PRIx64 " (guest physical %llx):%s", linear,
              t.physical_address, code ? text : " not in RAM");
}

void vcpu_state_report(int fd, const char *name, const struct mem *mem)
{
    struct kvm_regs r;
    struct kvm_sregs s;
    if (ioctl(fd, KVM_GET_REGS, &r) || ioctl(fd, KVM_GET_SREGS, &s)) {
        log_error(name, "cannot read the registers: %s", strerror(errno));
        return;
    }
    log_error(name, "rip %016llx rsp %016llx flags %08llx", r.rip, r.rsp, r.rflags);
    log_error(name, "rax %016llx rbx %016llx rcx %016llx rdx %016llx", r.rax, r.rbx, r.rcx,
              r.rdx);
    log_error(name, "rsi %016llx rdi %016llx rbp %016llx r8  %016llx", r.rsi, r.rdi, r.rbp,
              r.r8);
    log_error(name, "r9  %016llx r10 %016llx r11 %016llx r12 %016llx", r.r9, r.r10, r.r11,
              r.r12);
    log_error(name, "r13 %016llx r14 %016llx r15 %016llx", r.r13, r.r14, r.r15);
    log_error(name, "cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %llx", s.cr0, s.cr2,
              s.cr3, s.cr4, s.efer);
    const struct {
        const char *name;
        const struct kvm_segment *seg;
    } seg[] = {
        {"cs", &s.cs}, {"ds", &s.ds}, {"es", &s.es},   {"fs", &s.fs},
        {"gs", &s.gs}, {"ss", &s.ss}, {"ldt", &s.ldt}, {"tr", &s.tr},
    };
    for (size_t i = 0; i < ARRAY_SIZE(seg); i++)
        report_segment(name, seg[i].name, seg[i].seg);
    log_error(name, "gdt base %016llx limit %04x, idt base %016llx limit %04x", s.gdt.base,
              s.gdt.limit, s.idt.base, s.idt.limit);
    report_code(fd, name, mem, s.efer & EFER_LMA && s.cs.l ? r.rip : s.cs.base + r.rip);
}
