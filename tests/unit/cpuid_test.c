/*
 * cpuid_test.c: tests of vmm/cpuid.c, on made-up offers of an Intel and an AMD host that have
 * every bit set, and on what this machine's KVM offers.
 */
#include "vmm/cpuid.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/util.h"

static union {
    struct kvm_cpuid2 head;
    uint8_t
        room[sizeof(struct kvm_cpuid2) + CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2)];
} host, guest;

static void offer(uint32_t leaf, uint32_t sub, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    host.head.entries[host.head.nent++] = (struct kvm_cpuid_entry2){
        .function = leaf, .index = sub, .eax = a, .ebx = b, .ecx = c, .edx = d};
}

static void offer_vendor(uint32_t max, const char *name)
{
    host.head.nent = 0;
    offer(0, 0, max, get_le32(name), get_le32(name + 8), get_le32(name + 4));
}

/* All ones in every leaf, but for the fields that mean something else than a feature. */
static void offer_everything(uint32_t max_basic, const char *vendor, uint32_t max_ext)
{
    const uint32_t all = UINT32_MAX;

    offer_vendor(max_basic, vendor);
    for (uint32_t leaf = 1; leaf <= max_basic; leaf++) {
        if (leaf == 4)
            continue;
        offer(leaf, 0, all, all, all, all);
        if (leaf == 7 || leaf == 0xb || leaf == 0x1f)
            offer(leaf, 1, all, all, all, all);
    }
    const uint32_t host_sharing = 0xfc000000 | 0xabU << 14;
    offer(4, 0, host_sharing | 1 << 5 | 1, 7, 8, 9);
    offer(4, 1, host_sharing | 2 << 5 | 3, 7, 8, 9);
    offer(4, 2, host_sharing | 3 << 5 | 3, 7, 8, 9);
    offer(4, 3, 0, 0, 0, 0);
    offer(0x40000000, 0, 0x40000001, get_le32("KVMK"), get_le32("VMKV"), get_le32("M\0\0\0"));
    offer(0x40000001, 0, 0x01007efb, 0, 0, 0);
    offer(0x40000100, 0, all, all, all, all);
    offer(0x80000000, 0, max_ext, 0, 0, 0);
    for (uint32_t leaf = 0x80000001; leaf <= max_ext; leaf++) {
        if (leaf == 0x8000001d)
            offer(leaf, 0, 0xabU << 14 | 3 << 5 | 3, 7, 8, 9);
        else if (leaf == 0x80000008)
            offer(leaf, 0, 0x00303034, all, all, 0);
        else
            offer(leaf, 0, all, all, all, all);
    }
}

static struct cpuid_policy policy = {.topology = {1, 1, 1}};

static int build(unsigned index)
{
    guest.head.nent = CPUID_ENTRIES_MAX;
    return cpuid_build(&host.head, &policy, index, &guest.head);
}

static void intel(enum cpuid_signature signature, unsigned cpus, unsigned index)
{
    offer_everything(0x24, "GenuineIntel", 0x80000008);
    policy.signature = signature;
    policy.topology = (struct topology){1, cpus, 1};
    cr_assert_eq(build(index), 0);
}

static void amd(unsigned cpus, unsigned index)
{
    offer_everything(0x10, "AuthenticAMD", 0x80000028);
    policy.topology = (struct topology){1, cpus, 1};
    cr_assert_eq(build(index), 0);
}

static const struct kvm_cpuid_entry2 *look(uint32_t leaf, uint32_t sub)
{
    const struct kvm_cpuid_entry2 *found = NULL;
    for (uint32_t i = 0; i < guest.head.nent; i++) {
        const struct kvm_cpuid_entry2 *e = &guest.head.entries[i];
        if (e->function != leaf || e->index != sub)
            continue;
        cr_expect_null(found, "leaf %#x.%u is there twice", leaf, sub);
        found = e;
    }
    return found;
}

static const struct kvm_cpuid_entry2 *get(uint32_t leaf, uint32_t sub)
{
    const struct kvm_cpuid_entry2 *e = look(leaf, sub);
    cr_assert_not_null(e, "leaf %#x.%u is missing", leaf, sub);
    return e;
}

static void expect_no_hypervisor(void)
{
    cr_expect_eq(get(1, 0)->ecx >> 31, 0);
    for (uint32_t i = 0; i < guest.head.nent; i++)
        cr_expect_neq(guest.head.entries[i].function >> 28, 4, "leaf %#x",
                      guest.head.entries[i].function);
}

Test(cpuid, hidden)
{
    intel(CPUID_HIDDEN, 1, 0);
    expect_no_hypervisor();
    amd(1, 0);
    expect_no_hypervisor();
}

Test(cpuid, kvm_signature_is_kvms_own)
{
    intel(CPUID_KVM, 1, 0);
    cr_expect_eq(get(1, 0)->ecx >> 31, 1);
    cr_expect_eq(get(0x40000000, 0)->ebx, get_le32("KVMK"));
    cr_expect_eq(get(0x40000001, 0)->eax, 0x01007efb);
}

Test(cpuid, vendor_signature_has_no_features)
{
    memcpy(policy.vendor, "XenVMMXenVM\0", 12);
    intel(CPUID_VENDOR, 1, 0);
    const struct kvm_cpuid_entry2 *e = get(0x40000000, 0);
    cr_expect_eq(get(1, 0)->ecx >> 31, 1);
    cr_expect_eq(e->eax, 0x40000000);
    cr_expect_eq(e->ebx, get_le32("XenV"));
    cr_expect_eq(e->ecx, get_le32("MMXe"));
    cr_expect_eq(e->edx, get_le32("nVM"));
    cr_expect_null(look(0x40000001, 0));
    cr_expect_null(look(0x40000100, 0));
}

Test(cpuid, ids_in_leaf_1)
{
    intel(CPUID_HIDDEN, 6, 5);
    cr_expect_eq(get(1, 0)->ebx, 0x0508ffff);
    cr_expect_eq(get(1, 0)->edx >> 28 & 1, 1, "HTT");
    intel(CPUID_HIDDEN, 1, 0);
    cr_expect_eq(get(1, 0)->ebx, 0x0001ffff);
    cr_expect_eq(get(1, 0)->edx >> 28 & 1, 0, "no HTT");
    intel(CPUID_HIDDEN, 255, 254);
    cr_expect_eq(get(1, 0)->ebx, 0xfeffffff);
}

Test(cpuid, extended_topology)
{
    const uint32_t leaf[] = {0xb, 0x1f};
    intel(CPUID_HIDDEN, 6, 5);
    for (size_t i = 0; i < ARRAY_SIZE(leaf); i++) {
        const struct kvm_cpuid_entry2 *smt = get(leaf[i], 0), *core = get(leaf[i], 1),
                                      *end = get(leaf[i], 2);
        cr_expect(smt->eax == 0 && smt->ebx == 1 && smt->ecx == 0x100 && smt->edx == 5);
        cr_expect(core->eax == 3 && core->ebx == 6 && core->ecx == 0x201 && core->edx == 5);
        cr_expect(end->eax == 0 && end->ebx == 0 && end->ecx == 2 && end->edx == 5);
        cr_expect_eq(core->flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
    }
    amd(2, 1);
    cr_expect_eq(get(0xb, 1)->ebx, 2);
    cr_expect_null(look(0x1f, 0), "beyond the highest leaf");
    offer_vendor(0xa, "GenuineIntel");
    cr_expect_eq(build(0), 0);
    cr_expect_null(look(0xb, 0), "beyond the highest leaf");
}

Test(cpuid, caches)
{
    intel(CPUID_HIDDEN, 6, 0);
    cr_expect_eq(get(4, 0)->eax, 7U << 26 | 1 << 5 | 1, "first level: one core");
    cr_expect_eq(get(4, 1)->eax, 7U << 26 | 2 << 5 | 3, "second level: one core");
    cr_expect_eq(get(4, 2)->eax, 7U << 26 | 7 << 14 | 3 << 5 | 3, "third level: all");
    cr_expect_eq(get(4, 3)->eax, 0);
    cr_expect_eq(get(4, 2)->ebx, 7, "geometry stays");
    intel(CPUID_HIDDEN, 255, 0);
    cr_expect_eq(get(4, 2)->eax, 0xfc000000 | 255 << 14 | 3 << 5 | 3);
    amd(2, 1);
    cr_expect_eq(get(0x8000001d, 0)->eax, 1 << 14 | 3 << 5 | 3);
}

Test(cpuid, amd_topology)
{
    amd(6, 5);
    cr_expect_eq(get(0x80000008, 0)->ecx, 3 << 12 | 5);
    cr_expect_eq(get(0x80000008, 0)->eax, 0x00303034);
    const struct kvm_cpuid_entry2 *e = get(0x8000001e, 0);
    cr_expect(e->eax == 5 && e->ebx == 5 && e->ecx == 0 && e->edx == 0);
    cr_expect_eq(get(0x80000001, 0)->ecx & 2, 2, "CmpLegacy");
    cr_expect_eq(get(0x80000001, 0)->ecx >> 22 & 1, 1, "TOPOEXT as offered");
    cr_expect_null(look(0x80000026, 0));
    amd(1, 0);
    cr_expect_eq(get(0x80000008, 0)->ecx, 0);
    cr_expect_eq(get(0x80000001, 0)->ecx & 2, 0);

    offer_everything(0x10, "HygonGenuine", 0x80000028);
    policy.topology = (struct topology){1, 2, 1};
    cr_assert_eq(build(1), 0);
    cr_expect_eq(get(0x80000008, 0)->ecx, 1 << 12 | 1);
    offer_everything(0x10, "  Shanghai  ", 0x80000028);
    cr_assert_eq(build(1), 0);
    cr_expect_eq(get(0x80000008, 0)->ecx, 0, "AMD's field");
    cr_expect_eq(get(0x80000001, 0)->ecx & 2, 0, "AMD's bit");
}

/* Two sockets of three cores of two threads: ids 0-5 and 8-13. */
static const struct topology uneven = {2, 3, 2};

Test(cpuid, apic_ids_have_a_field_for_each_level)
{
    const uint32_t id[] = {0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13};
    const struct topology flat = {1, 300, 1}, pairs = {3, 1, 2};
    cr_expect_eq(topology_cpus(&uneven), 12);
    for (unsigned i = 0; i < ARRAY_SIZE(id); i++)
        cr_expect_eq(topology_apic_id(&uneven, i), id[i]);
    cr_expect_eq(topology_apic_id(&flat, 299), 299);
    cr_expect_eq(topology_apic_id(&pairs, 5), 5);
    cr_expect_eq(topology_bits(0) + topology_bits(1), 0);
    cr_expect_eq(topology_bits(2), 1);
    cr_expect_eq(topology_bits(3), 2);
    cr_expect_eq(topology_bits(1 << 20), 20);
}

Test(cpuid, sockets_cores_and_threads_on_intel)
{
    offer_everything(0x24, "GenuineIntel", 0x80000008);
    policy.topology = uneven;
    cr_assert_eq(build(9), 0);
    cr_expect_eq(get(1, 0)->ebx, 11U << 24 | 8 << 16 | 0xffff);
    cr_expect_eq(get(4, 0)->eax, 3U << 26 | 1 << 14 | 1 << 5 | 1, "a core's threads share");
    cr_expect_eq(get(4, 1)->eax, 3U << 26 | 1 << 14 | 2 << 5 | 3);
    cr_expect_eq(get(4, 2)->eax, 3U << 26 | 7 << 14 | 3 << 5 | 3, "a socket's");
    for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x1f - 0xb) {
        const struct kvm_cpuid_entry2 *smt = get(leaf, 0), *core = get(leaf, 1);
        cr_expect(smt->eax == 1 && smt->ebx == 2 && smt->ecx == 0x100 && smt->edx == 11);
        cr_expect(core->eax == 3 && core->ebx == 6 && core->ecx == 0x201 && core->edx == 11);
    }
    policy.topology = (struct topology){4, 1, 1};
    cr_assert_eq(build(3), 0);
    cr_expect_eq(get(1, 0)->ebx, 0x0301ffff);
    cr_expect_eq(get(1, 0)->edx >> 28 & 1, 0, "nothing to tell apart in a package");
}

Test(cpuid, sockets_cores_and_threads_on_amd)
{
    offer_everything(0x10, "AuthenticAMD", 0x80000028);
    policy.topology = uneven;
    cr_assert_eq(build(9), 0);
    cr_expect_eq(get(0x80000008, 0)->ecx, 3 << 12 | 5);
    cr_expect_eq(get(0x8000001d, 0)->eax, 7 << 14 | 3 << 5 | 3);
    const struct kvm_cpuid_entry2 *e = get(0x8000001e, 0);
    cr_expect(e->eax == 11 && e->ebx == (1 << 8 | 1) && e->ecx == 1 && e->edx == 0);
    cr_expect_eq(get(0x80000001, 0)->ecx & 2, 2, "CmpLegacy");
}

Test(cpuid, more_than_fields_of_eight_bits_can_tell)
{
    offer_everything(0x24, "GenuineIntel", 0x80000008);
    policy.topology = (struct topology){1, 300, 1};
    cr_assert_eq(build(299), 0);
    cr_expect_eq(get(1, 0)->ebx, 43U << 24 | 255 << 16 | 0xffff);
    cr_expect_eq(get(4, 2)->eax, 63U << 26 | 511 << 14 | 3 << 5 | 3);
    cr_expect(get(0xb, 1)->eax == 9 && get(0xb, 1)->ebx == 300 && get(0xb, 1)->edx == 299);

    offer_everything(0x10, "AuthenticAMD", 0x80000028);
    cr_assert_eq(build(299), 0);
    cr_expect_eq(get(1, 0)->ebx, 43U << 24 | 255 << 16 | 0xffff);
    cr_expect_eq(get(0x80000008, 0)->ecx, 9 << 12 | 255);
    cr_expect(get(0x8000001e, 0)->eax == 299 && get(0x8000001e, 0)->ebx == 43);
    policy.topology = (struct topology){1, 1, 300};
    cr_assert_eq(build(299), 0);
    cr_expect(get(0x8000001e, 0)->eax == 299 && get(0x8000001e, 0)->ebx == 255 << 8);
}

/* ---- what a guest makes of it, by each of its ways, for counts that are no powers of two ----
 */

struct place {
    uint32_t socket, core, thread;
};

static uint32_t field(uint32_t value, unsigned low, unsigned bits)
{
    return value >> low & ((1U << bits) - 1);
}

static struct place split(uint32_t id, uint32_t core_shift, uint32_t socket_shift)
{
    return (struct place){id >> socket_shift, field(id, core_shift, socket_shift - core_shift),
                          field(id, 0, core_shift)};
}

static void expect_place(struct place got, const char *way, unsigned index)
{
    const struct topology *t = &policy.topology;
    uint32_t thread = index % t->threads, core = index / t->threads % t->cores,
             socket = index / (t->threads * t->cores);
    cr_expect(got.socket == socket && got.core == core && got.thread == thread,
              "%u sockets, %u cores, %u threads: vCPU %u by %s is %u.%u.%u, not %u.%u.%u",
              t->sockets, t->cores, t->threads, index, way, got.socket, got.core, got.thread,
              socket, core, thread);
}

/* SDM volume 3A, 9.9.3: the leaf's shifts and its x2APIC id. */
static void expect_leaf_of_levels(uint32_t leaf, unsigned index)
{
    const struct kvm_cpuid_entry2 *smt = get(leaf, 0), *core = get(leaf, 1);
    expect_place(split(core->edx, smt->eax, core->eax), "0xB or 0x1F", index);
    cr_expect_eq(smt->ebx, policy.topology.threads);
    cr_expect_eq(core->ebx, policy.topology.threads * policy.topology.cores);
}

/* The same section for processors without these leaves: from leaf 1 the initial id and the room
 * for ids in a package, from leaf 4 that for cores. Fields of 8 and of 6 bits. */
static void expect_legacy_intel(unsigned index)
{
    uint32_t id = get(1, 0)->ebx >> 24, room = field(get(1, 0)->ebx, 16, 8);
    uint32_t core_bits = topology_bits(field(get(4, 0)->eax, 26, 6) + 1);
    uint32_t socket_shift = get(1, 0)->edx >> 28 & 1 ? topology_bits(room) : 0;
    expect_place(split(id, socket_shift - core_bits, socket_shift), "leaves 1 and 4", index);
}

/* APM volume 3, E.4.7 and E.4.17: bits of an id within the package, threads in a core. */
static void expect_amd(unsigned index)
{
    uint32_t sizes = get(0x80000008, 0)->ecx;
    const struct kvm_cpuid_entry2 *e = get(0x8000001e, 0);
    uint32_t threads = field(e->ebx, 8, 8) + 1;
    struct place p = split(e->eax, topology_bits(threads), field(sizes, 12, 4));
    expect_place(p, "0x80000008 and 0x8000001E", index);
    cr_expect_eq(field(e->ebx, 0, 8), p.core);
    cr_expect_eq(field(e->ecx, 0, 8), p.socket);
    cr_expect_eq(field(sizes, 0, 8) + 1, policy.topology.threads * policy.topology.cores);
    cr_expect_eq(field(get(1, 0)->ebx, 16, 8), field(sizes, 0, 8) + 1, "a count on AMD");
}

/* Who shares a cache has the same id above the room that the cache says. */
static void expect_shared(uint32_t leaf, uint32_t sub, uint32_t id, unsigned bits)
{
    uint32_t shift = topology_bits(field(get(leaf, sub)->eax, 14, 12) + 1);
    cr_expect_eq(id >> shift, id >> bits, "leaf %#x.%u: %u bits", leaf, sub, shift);
    cr_expect_eq(shift, bits);
}

Test(cpuid, every_way_of_a_guest_leads_to_the_same_place)
{
    const struct topology row[] = {{1, 1, 1},  {3, 1, 1}, {1, 3, 1}, {1, 1, 2},
                                   {2, 3, 2},  {3, 5, 3}, {2, 6, 2}, {1, 17, 3},
                                   {1, 64, 2}, {5, 7, 1}, {2, 1, 3}, {1, 127, 1}};
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        const struct topology *t = &row[i];
        uint32_t thread_bits = topology_bits(t->threads),
                 socket_bits = thread_bits + topology_bits(t->cores);
        for (unsigned n = 0; n < topology_cpus(t); n++) {
            policy.topology = *t;
            offer_everything(0x24, "GenuineIntel", 0x80000008);
            cr_assert_eq(build(n), 0);
            uint32_t id = get(0xb, 0)->edx;
            expect_leaf_of_levels(0xb, n);
            expect_leaf_of_levels(0x1f, n);
            if (t->cores <= 64)
                expect_legacy_intel(n);
            expect_shared(4, 0, id, thread_bits);
            expect_shared(4, 2, id, socket_bits);
            offer_everything(0x10, "AuthenticAMD", 0x80000028);
            cr_assert_eq(build(n), 0);
            expect_leaf_of_levels(0xb, n);
            expect_amd(n);
            expect_shared(0x8000001d, 0, id, socket_bits);
        }
    }
}

struct bits {
    uint32_t leaf, sub;
    uint32_t eax, ebx, ecx, edx;
};

static void expect_gone(const struct bits *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct kvm_cpuid_entry2 *e = get(b[i].leaf, b[i].sub);
        cr_expect_eq(e->eax & b[i].eax, 0, "row %zu", i);
        cr_expect_eq(e->ebx & b[i].ebx, 0, "row %zu", i);
        cr_expect_eq(e->ecx & b[i].ecx, 0, "row %zu", i);
        cr_expect_eq(e->edx & b[i].edx, 0, "row %zu", i);
    }
}

Test(cpuid, features_that_are_not_offered)
{
    const struct bits gone[] = {
        {1, 0, .ecx = 1 << 3 | 1 << 5 | 1 << 15}, /* MONITOR, VMX, PDCM */
        {6, 0, ~4U, ~0U, ~0U, ~0U},               /* but ARAT */
        {7, 0, .ebx = 1 << 2 | 1 << 25, .ecx = 1 << 30, .edx = 1 << 22 | 3 << 24},
        {7, 1, .eax = 1 << 21, .edx = 1 << 8}, /* AMX-FP16, AMX-COMPLEX */
        {0x80000001, 0, .ecx = 1 << 2 | 1 << 10 | 1 << 23 | 1 << 29},
        {0x80000007, 0, .edx = ~(1U << 8)},
    };
    const uint32_t leaves[] = {0x5,  0x9,  0xa,        0xf,        0x10,       0x12,      0x14,
                               0x1d, 0x1e, 0x8000000a, 0x8000001b, 0x8000001f, 0x80000022};
    amd(1, 0);
    expect_gone(gone, ARRAY_SIZE(gone));
    for (size_t i = 0; i < ARRAY_SIZE(leaves); i++)
        cr_expect_null(look(leaves[i], 0), "leaf %#x", leaves[i]);
    intel(CPUID_KVM, 1, 0);
    expect_gone(gone, 4);
    for (size_t i = 0; i < ARRAY_SIZE(leaves); i++)
        cr_expect_null(look(leaves[i], 0), "leaf %#x", leaves[i]);
}

Test(cpuid, features_that_stay)
{
    amd(1, 0);
    cr_expect_eq(get(0x80000007, 0)->edx, 1 << 8, "invariant TSC");
    intel(CPUID_HIDDEN, 1, 0);
    cr_expect_eq(get(1, 0)->edx >> 12 & 1, 1, "MTRR");
    cr_expect_eq(get(1, 0)->ecx >> 21 & 1, 1, "x2APIC");
    cr_expect_eq(get(6, 0)->eax, 4, "ARAT");
    cr_expect_eq(get(7, 0)->ebx >> 1 & 1, 1, "TSC_ADJUST");
    cr_expect_eq(get(7, 0)->edx >> 29 & 1, 1, "ARCH_CAPABILITIES");
    cr_expect_eq(get(7, 1)->ebx, UINT32_MAX, "another subleaf than the rule's");
    cr_expect_eq(get(0xd, 0)->eax, UINT32_MAX, "KVM's");
    cr_expect_eq(get(0x24, 0)->eax, UINT32_MAX);
}

Test(cpuid, tsc_deadline_is_offered_when_kvm_has_it)
{
    offer_vendor(1, "GenuineIntel");
    offer(1, 0, 0, 0, 0, 0);
    policy.topology = (struct topology){1, 1, 1};
    cr_assert_eq(build(0), 0);
    cr_expect_eq(get(1, 0)->ecx, 0);
    policy.tsc_deadline = true;
    cr_assert_eq(build(0), 0);
    cr_expect_eq(get(1, 0)->ecx, 1 << 24);
}

/* As Linux computes it, in 32 bits. */
static void expect_clock(uint32_t khz)
{
    policy.tsc_khz = khz;
    policy.topology = (struct topology){1, 1, 1};
    cr_assert_eq(build(0), 0);
    const struct kvm_cpuid_entry2 *tsc = get(0x15, 0);
    cr_expect_eq(tsc->ecx, 1000000000);
    cr_assert_neq(tsc->eax, 0);
    uint32_t linux_khz = tsc->ecx / 1000 * tsc->ebx / tsc->eax;
    int64_t error = (int64_t)linux_khz - khz;
    cr_expect(error * 1000000 <= 2 * (int64_t)khz && error * 1000000 >= -2 * (int64_t)khz,
              "%u kHz becomes %u", khz, linux_khz);
    cr_expect_eq(get(0x16, 0)->eax, khz / 1000);
    cr_expect_geq(get(0, 0)->eax, 0x16);
}

Test(cpuid, clocks_of_intel)
{
    const uint32_t khz[] = {800000,  999999,  1000000, 2095078,
                            2499998, 2893202, 3600000, 4294000};
    for (size_t i = 0; i < ARRAY_SIZE(khz); i++) {
        offer_vendor(0xd, "GenuineIntel"); /* a lower highest leaf is raised */
        expect_clock(khz[i]);
        offer_everything(0x20, "GenuineIntel", 0x80000008);
        expect_clock(khz[i]);
        cr_expect_eq(get(0, 0)->eax, 0x20);
    }
    const uint32_t extreme[] = {1, 1000, 4294967295};
    for (size_t i = 0; i < ARRAY_SIZE(extreme); i++) {
        policy.tsc_khz = extreme[i];
        cr_expect_eq(build(0), 0);
        cr_expect_eq(!get(0x15, 0)->eax, !get(0x15, 0)->ebx, "both or none");
    }
}

Test(cpuid, clocks_stay_where_they_are_unknown_or_not_the_vendors)
{
    policy.tsc_khz = 0;
    intel(CPUID_HIDDEN, 1, 0);
    cr_expect_eq(get(0x15, 0)->eax, UINT32_MAX);
    policy.tsc_khz = 2500000;
    amd(1, 0);
    cr_expect_null(look(0x15, 0));
    cr_expect_eq(get(0, 0)->eax, 0x10);
}

Test(cpuid, too_little_room)
{
    intel(CPUID_HIDDEN, 2, 0);
    uint32_t used = guest.head.nent;
    guest.head.nent = used;
    cr_expect_eq(cpuid_build(&host.head, &policy, 0, &guest.head), 0);
    for (uint32_t room = 0; room < used; room++) {
        memset(&guest, 0x55, sizeof(guest));
        guest.head.nent = room;
        cr_expect_eq(cpuid_build(&host.head, &policy, 0, &guest.head), -E2BIG);
        cr_expect_eq(guest.head.entries[room].function, 0x55555555, "nothing beyond the room");
    }
}

Test(cpuid, empty_offer)
{
    cr_expect_eq(build(0), 0);
    cr_expect_eq(guest.head.nent, 0);
    cr_expect_eq(cpuid_phys_bits(&host.head), 36);
}

Test(cpuid, phys_bits)
{
    const struct {
        uint32_t eax;
        unsigned want;
    } row[] = {
        {0x3027, 39},   {0x302e, 46},   {0x3034, 48},
        {0x300034, 48}, {0x390034, 52}, {0x2d0034, 45},
    };
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        host.head.nent = 0;
        offer(0x80000008, 0, row[i].eax, 0, 0, 0);
        cr_expect_eq(cpuid_phys_bits(&host.head), row[i].want, "EAX %#x", row[i].eax);
    }
}

Test(cpuid, offer_of_this_machine)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        cr_skip_test("/dev/kvm is not usable: %s", strerror(errno));
    host.head.nent = CPUID_ENTRIES_MAX;
    cr_assert_eq(ioctl(fd, KVM_GET_SUPPORTED_CPUID, &host.head), 0);
    close(fd);
    policy =
        (struct cpuid_policy){.topology = {1, 3, 1}, .tsc_khz = 2499998, .tsc_deadline = true};
    cr_assert_eq(build(2), 0);
    expect_no_hypervisor();
    cr_expect_eq(get(1, 0)->ebx >> 24, 2);
    for (uint32_t i = 0; i < guest.head.nent; i++) /* every entry is there once */
        get(guest.head.entries[i].function, guest.head.entries[i].index);
    unsigned bits = cpuid_phys_bits(&host.head);
    cr_expect(bits >= 36 && bits <= 57, "%u bits", bits);
}
