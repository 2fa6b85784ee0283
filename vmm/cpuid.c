/*
 * cpuid.c: what the guest's CPUID says. KVM's offer (KVM_GET_SUPPORTED_CPUID) goes leaf by leaf
 * through one table, `rule`; what no row names passes as KVM offers it. Then the leaves that
 * describe this machine alone are added: topology, hypervisor signature, clock frequencies.
 *
 * Leaves and bits: Intel SDM, volume 2A, CPUID; AMD64 APM, volume 3, appendix E "Obtaining
 * Processor Information Via the CPUID Instruction". A leaf left out answers as the vendor's
 * hardware does, by KVM's own code: zeroes within the range, and beyond it zeroes on AMD and
 * Hygon but the highest basic leaf on the others. So leaving out 0x40000000 and clearing the
 * hypervisor bit is all that hiding takes.
 *
 * Topology (topology.h): a socket is a package and a node. Leaf 0xD is left to KVM, which
 * computes it from XCR0. No thread, no lock: pure functions.
 */
#include "vmm/cpuid.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "vmm/util.h"

#define B(n) (1U << (n))

enum reg { EAX, EBX, ECX, EDX };

struct guest {
    const struct cpuid_policy *policy;
    const struct topology *topology;
    unsigned index;
    uint32_t id;      /* APIC id */
    uint32_t package; /* logical processors in one */
    bool amd;         /* or Hygon, which has AMD's leaves */
    bool intel;
    uint32_t max_basic;
};

/* ---- registers that are computed ---- */

/* Leaf 0: the added leaves 0x15 and 0x16 have to be within the range. */
static void basic_max(struct kvm_cpuid_entry2 *e, const struct guest *g)
{
    e->eax = MAX(e->eax, g->max_basic);
}

/* Leaf 1: EBX[31:24] APIC id, [23:16] logical processors in the package (AMD) or room for their
 * ids; and the bits that depend on the policy. */
static void features(struct kvm_cpuid_entry2 *e, const struct guest *g)
{
    const struct cpuid_policy *p = g->policy;
    uint32_t package = g->amd ? g->package : B(topology_socket_shift(g->topology));
    e->ebx = (e->ebx & 0xffff) | MIN(package, 0xffU) << 16 | g->id << 24;
    e->ecx &= ~B(31);
    if (p->signature != CPUID_HIDDEN)
        e->ecx |= B(31);
    if (p->tsc_deadline)
        e->ecx |= B(24);
    e->edx &= ~B(28); /* HTT: EBX[23:16] is valid */
    if (g->package > 1)
        e->edx |= B(28);
}

/* Leaf 4 and 0x8000001D: EAX[25:14] room for the ids of the logical processors sharing the
 * cache, less 1: a core's, from the third level on a package's. The host's figures would merge
 * or split the guest's cache domains. Leaf 4 only: EAX[31:26] room for core ids in the package,
 * less 1. */
static void caches(struct kvm_cpuid_entry2 *e, const struct guest *g)
{
    const struct topology *t = g->topology;
    uint32_t level = e->eax >> 5 & 7;
    if (!(e->eax & 0x1f)) /* no more caches */
        return;
    uint32_t bits = level >= 3 ? topology_socket_shift(t) : topology_bits(t->threads);
    e->eax = (e->eax & ~(0xfffU << 14)) | (MIN(B(bits), 4096U) - 1) << 14;
    if (e->function == 4)
        e->eax = (e->eax & 0x3ffffff) | (MIN(B(topology_bits(t->cores)), 64U) - 1) << 26;
}

/* 0x80000001: ECX bit 1 (CmpLegacy) says that the HTT bit means cores, not threads. */
static void amd_features(struct kvm_cpuid_entry2 *e, const struct guest *g)
{
    e->ecx &= ~B(1);
    if (g->amd && g->package > 1)
        e->ecx |= B(1);
}

/* 0x80000008: ECX[7:0] threads in the package, less 1; [15:12] APIC id bits. */
static void amd_sizes(struct kvm_cpuid_entry2 *e, const struct guest *g)
{
    e->ecx = 0;
    if (g->amd)
        e->ecx = (MIN(g->package, 256U) - 1) | topology_socket_shift(g->topology) << 12;
}

/* 0x8000001E: APIC id; core id, threads in a core less 1 (EBX[15:8]); node, the only one of its
 * package. */
static void amd_topology(struct kvm_cpuid_entry2 *e, const struct guest *g)
{
    const struct topology *t = g->topology;
    e->eax = g->id;
    e->ebx = (topology_core(t, g->index) & 0xff) | (MIN(t->threads, 256U) - 1) << 8;
    e->ecx = topology_socket(t, g->index) & 0xff;
    e->edx = 0;
}

/* ---- the policy ---- */

/* The leaves are left out, or computed by FN, or bits of one register of one subleaf are
 * cleared. */
struct rule {
    uint32_t first, last;
    bool drop;
    bool kvm_keeps; /* not for CPUID_KVM */
    void (*fn)(struct kvm_cpuid_entry2 *e, const struct guest *g);
    uint32_t subleaf;
    enum reg reg;
    uint32_t clear;
};

#define LEAF(n)          .first = (n), .last = (n)
#define LEAVES(from, to) .first = (from), .last = (to)

/* clang-format off */
static const struct rule rule[] = {
    /* This machine's own identity and topology, not the host's. */
    {LEAF(0x0), .fn = basic_max},
    {LEAF(0x1), .fn = features},
    {LEAF(0x4), .fn = caches},
    {LEAF(0xb), .drop = true},                  /* added anew by add_topology() */
    {LEAF(0x1f), .drop = true},                 /* likewise */
    {LEAF(0x80000001), .fn = amd_features},
    {LEAF(0x80000008), .fn = amd_sizes},
    {LEAF(0x8000001d), .fn = caches},
    {LEAF(0x8000001e), .fn = amd_topology},
    {LEAF(0x80000026), .drop = true},           /* topology again: 0xB says it all */

    /* The hypervisor: KVM's leaves are shown only when asked for. */
    {LEAVES(0x40000000, 0x4fffffff), .drop = true, .kvm_keeps = true},

    /* Nested virtualisation and trusted execution: no VMX, SVM, SMX, SKINIT, SGX, SEV, TDX.
     * Their state would have to be reset and saved with the vCPU, and nobody asked yet. */
    {LEAF(0x1), .reg = ECX, .clear = B(5) | B(6)},
    {LEAF(0x7), .reg = EBX, .clear = B(2)},
    {LEAF(0x7), .reg = ECX, .clear = B(30)},    /* SGX launch control */
    {LEAF(0x12), .drop = true},
    {LEAF(0x21), .drop = true},
    {LEAF(0x80000001), .reg = ECX, .clear = B(2) | B(12)},
    {LEAF(0x8000000a), .drop = true},
    {LEAF(0x8000001f), .drop = true},

    /* Performance monitoring and tracing: a virtual PMU needs the host's perf, which may be in
     * use or switched off; then its MSRs would fault under a guest that was promised them. */
    {LEAF(0x1), .reg = ECX, .clear = B(2) | B(4) | B(15)},    /* DTES64, DS-CPL, PDCM */
    {LEAF(0x1), .reg = EDX, .clear = B(21)},    /* DS */
    {LEAF(0x7), .reg = EBX, .clear = B(25)},    /* Processor Trace */
    {LEAF(0x7), .reg = EDX, .clear = B(19)},    /* architectural LBR */
    {LEAF(0xa), .drop = true},
    {LEAF(0x14), .drop = true},                 /* Processor Trace */
    {LEAF(0x1c), .drop = true},                 /* architectural LBR */
    {LEAF(0x23), .drop = true},                 /* perfmon extension */
    {LEAF(0x80000001), .reg = ECX,              /* IBS, LWP, PERFCTR core, NB, L2 */
     .clear = B(10) | B(15) | B(23) | B(24) | B(28)},
    {LEAVES(0x8000001b, 0x8000001c), .drop = true}, /* IBS, LWP */
    {LEAF(0x80000022), .drop = true},           /* performance monitoring version 2 */

    /* Power and frequency are the host's: no turbo, HWP, EPB, MPERF; only ARAT is true. */
    {LEAF(0x1), .reg = ECX, .clear = B(7) | B(8)},  /* EIST, TM2 */
    {LEAF(0x6), .reg = EAX, .clear = ~B(2)},
    {LEAF(0x6), .reg = EBX, .clear = UINT32_MAX},
    {LEAF(0x6), .reg = ECX, .clear = UINT32_MAX},
    {LEAF(0x6), .reg = EDX, .clear = UINT32_MAX},
    {LEAF(0x80000007), .reg = EDX, .clear = ~B(8)}, /* the invariant TSC stays */

    /* MONITOR/MWAIT and MWAITX: without an exit they would hold a host CPU, and KVM runs them
     * as no-ops: an idle guest would spin. */
    {LEAF(0x1), .reg = ECX, .clear = B(3)},
    {LEAF(0x5), .drop = true},
    {LEAF(0x80000001), .reg = ECX, .clear = B(29)},

    /* AMX: its state needs arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM) and larger XSAVE areas. */
    {LEAF(0x7), .reg = EDX, .clear = B(22) | B(24) | B(25)},
    {LEAF(0x7), .subleaf = 1, .reg = EAX, .clear = B(21)},  /* AMX-FP16 */
    {LEAF(0x7), .subleaf = 1, .reg = EDX, .clear = B(8)},   /* AMX-COMPLEX */
    {LEAVES(0x1d, 0x1e), .drop = true},

    /* Resources of the host's package: DCA, cache and bandwidth monitoring and allocation,
     * hybrid core kinds (a vCPU moves between them), PCONFIG. */
    {LEAF(0x7), .reg = EBX, .clear = B(12) | B(15)},
    {LEAF(0x7), .reg = EDX, .clear = B(15) | B(18)},
    {LEAF(0x9), .drop = true},
    {LEAVES(0xf, 0x10), .drop = true},
    {LEAVES(0x1a, 0x1b), .drop = true},
    {LEAF(0x80000020), .drop = true},
};
/* clang-format on */

static uint32_t *entry_reg(struct kvm_cpuid_entry2 *e, enum reg reg)
{
    return reg == EAX ? &e->eax : reg == EBX ? &e->ebx : reg == ECX ? &e->ecx : &e->edx;
}

/* False when E is left out. */
static bool apply(struct kvm_cpuid_entry2 *e, const struct guest *g)
{
    for (size_t i = 0; i < ARRAY_SIZE(rule); i++) {
        const struct rule *r = &rule[i];
        if (e->function < r->first || e->function > r->last)
            continue;
        if (r->kvm_keeps && g->policy->signature == CPUID_KVM)
            continue;
        if (r->drop)
            return false;
        if (r->fn)
            r->fn(e, g);
        else if (e->index == r->subleaf)
            *entry_reg(e, r->reg) &= ~r->clear;
    }
    return true;
}

/* ---- leaves that are added ---- */

struct list {
    struct kvm_cpuid2 *out;
    uint32_t room;
    int err;
};

static void add(struct list *list, const struct kvm_cpuid_entry2 *e)
{
    if (list->out->nent < list->room)
        list->out->entries[list->out->nent++] = *e;
    else
        list->err = -E2BIG;
}

/* 0xB or 0x1F: threads, then cores, then the end; the x2APIC id is in every subleaf's EDX. */
static void add_topology(struct list *list, const struct guest *g, uint32_t leaf)
{
    enum { LEVEL_SMT = 1, LEVEL_CORE = 2 };
    const struct topology *t = g->topology;
    const struct kvm_cpuid_entry2 level[] = {
        {.eax = topology_bits(t->threads), .ebx = t->threads, .ecx = LEVEL_SMT << 8},
        {.eax = topology_socket_shift(t), .ebx = g->package, .ecx = LEVEL_CORE << 8},
        {.eax = 0},
    };

    for (uint32_t i = 0; i < ARRAY_SIZE(level); i++) {
        struct kvm_cpuid_entry2 e = level[i];
        e.function = leaf;
        e.index = i;
        e.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        e.ecx |= i;
        e.edx = g->id;
        add(list, &e);
    }
}

static void add_signature(struct list *list, const struct guest *g)
{
    struct kvm_cpuid_entry2 e = {.function = 0x40000000, .eax = 0x40000000};
    e.ebx = get_le32(g->policy->vendor);
    e.ecx = get_le32(g->policy->vendor + 4);
    e.edx = get_le32(g->policy->vendor + 8);
    add(list, &e);
}

/* TSC frequency = crystal * EBX / EAX. The crystal has to be KVM's local APIC timer clock of
 * 1 GHz, since Linux takes it for that. EBX is kept below 2^32 / 10^6, since Linux multiplies
 * it with the crystal's kHz in 32 bits: the fraction of the least error under that limit is
 * within a fraction of a ppm, far better than a whole number of MHz. */
static void tsc_ratio(uint32_t khz, uint32_t *num, uint32_t *den)
{
    const uint64_t crystal_khz = 1000000;
    uint64_t best = UINT64_MAX;
    *num = *den = 0;
    for (uint64_t d = 1; d <= 4000; d++) {
        uint64_t n = (khz * d + crystal_khz / 2) / crystal_khz;
        if (n > 4294)
            break;
        uint64_t want = khz * d, have = n * crystal_khz;
        uint64_t error = (want > have ? want - have : have - want) * 10000 / d;
        if (n && error < best) {
            best = error;
            *num = (uint32_t)n;
            *den = (uint32_t)d;
        }
    }
}

/* 0x15 and 0x16: Intel's way to tell the clocks; Linux then needs no calibration. */
static void add_clocks(struct list *list, const struct guest *g)
{
    uint32_t khz = g->policy->tsc_khz;
    struct kvm_cpuid_entry2 tsc = {.function = 0x15, .ecx = 1000000000};
    struct kvm_cpuid_entry2 mhz = {
        .function = 0x16, .eax = khz / 1000, .ebx = khz / 1000, .ecx = 100};

    tsc_ratio(khz, &tsc.ebx, &tsc.eax);
    add(list, &tsc);
    add(list, &mhz);
}

/* ---- the whole ---- */

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *cpuid, uint32_t leaf)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == leaf)
            return &cpuid->entries[i];
    }
    return NULL;
}

static bool vendor_is(const struct kvm_cpuid_entry2 *leaf0, const char *name)
{
    const uint32_t text[3] = {leaf0->ebx, leaf0->edx, leaf0->ecx};
    return !memcmp(text, name, sizeof(text));
}

int cpuid_build(const struct kvm_cpuid2 *supported, const struct cpuid_policy *policy,
                unsigned index, struct kvm_cpuid2 *out)
{
    const struct topology *t = &policy->topology;
    struct guest g = {.policy = policy,
                      .topology = t,
                      .index = index,
                      .id = topology_apic_id(t, index),
                      .package = t->cores * t->threads};
    struct list list = {.out = out, .room = out->nent};
    const struct kvm_cpuid_entry2 *leaf0 = find(supported, 0);
    if (leaf0) {
        g.amd = vendor_is(leaf0, "AuthenticAMD") || vendor_is(leaf0, "HygonGenuine");
        g.intel = vendor_is(leaf0, "GenuineIntel");
        g.max_basic = leaf0->eax;
    }
    bool clocks = g.intel && policy->tsc_khz;
    if (clocks)
        g.max_basic = MAX(g.max_basic, 0x16U);

    out->nent = 0;
    for (uint32_t i = 0; i < supported->nent; i++) {
        struct kvm_cpuid_entry2 e = supported->entries[i];
        if (clocks && (e.function == 0x15 || e.function == 0x16))
            continue;
        if (apply(&e, &g))
            add(&list, &e);
    }
    if (clocks)
        add_clocks(&list, &g);
    if (g.max_basic >= 0xb)
        add_topology(&list, &g, 0xb);
    if (g.max_basic >= 0x1f)
        add_topology(&list, &g, 0x1f);
    if (policy->signature == CPUID_VENDOR)
        add_signature(&list, &g);
    return list.err;
}

unsigned cpuid_phys_bits(const struct kvm_cpuid2 *supported)
{
    const struct kvm_cpuid_entry2 *e = find(supported, 0x80000008);
    if (!e)
        return 36; /* SDM 4.1.4: what a processor without the leaf has */
    uint32_t bits = e->eax & 0xff;
    uint32_t mappable = e->eax >> 16 & 0xff;
    /* Before 6.10 KVM does not tell what its page tables reach: four levels are 48 bits. */
    return MIN(bits, mappable ? mappable : 48U);
}
