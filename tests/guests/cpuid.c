/*
 * cpuid.c: what CPUID tells the guest (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E;
 * Documentation/virt/kvm/x86/cpuid.rst of Linux).
 *
 * By default nothing may tell that there is a hypervisor: its bit is clear, its leaves answer
 * as they do on bare metal, KVM's own MSRs do not exist. The word `kvm` expects KVM's signature
 * instead, `vendor=TEXT` that one. The topology must agree with the APIC id on every processor:
 * one socket, one thread a core, or what `sockets=S threads=T` say.
 */
#include "lib.h"

static unsigned cpus, threads, package; /* in all, in a core, in a socket */

static struct {
    unsigned apic_id;
    bool leaf1, leaf4, leafb, leaf1f, amd;
} topology[1 + AP_MAX];
static volatile uint32_t done;

static bool is_vendor(const char *name)
{
    struct cpuid c = cpuid(0, 0);
    uint32_t text[3] = {c.ebx, c.edx, c.ecx};

    return !memcmp(text, name, 12);
}

/* What a leaf that is not implemented answers: on Intel the data of the highest basic leaf. */
static bool is_unimplemented(uint32_t leaf)
{
    struct cpuid got = cpuid(leaf, 0), want = {0};

    if (is_vendor("GenuineIntel"))
        want = cpuid(cpuid(0, 0).eax, 0);
    return !memcmp(&got, &want, sizeof(got));
}

static void signature(const char *text)
{
    struct cpuid c = cpuid(0x40000000, 0);
    uint32_t got[3] = {c.ebx, c.ecx, c.edx};
    char want[12] = "";

    for (unsigned i = 0; i < sizeof(want) && text[i] && text[i] != ' '; i++)
        want[i] = text[i];
    check(cpuid(1, 0).ecx >> 31, "hypervisor bit is set");
    check(!memcmp(got, want, sizeof(want)) && c.eax >= 0x40000000 && c.eax < 0x40000100,
          "signature at 0x40000000, highest leaf %x", c.eax);
}

static void hidden(void)
{
    static const uint32_t leaves[] = {0x40000000, 0x40000001, 0x40000010,
                                      0x40000100, 0x400000ff, 0x4fffffff};
    bool bare = true;

    check(!(cpuid(1, 0).ecx >> 31), "hypervisor bit is clear");
    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++)
        bare &= is_unimplemented(leaves[i]);
    check(bare, "leaves 0x40000000 and up answer as bare metal does");
}

static void pv_msrs(void)
{
    static const uint32_t msrs[] = {0x11,       0x12,       0x4b564d00, 0x4b564d01, 0x4b564d02,
                                    0x4b564d03, 0x4b564d04, 0x4b564d05, 0x4b564d06, 0x4b564d07};
    uint64_t value;

    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
        check(!rdmsr(msrs[i], &value) && !wrmsr(msrs[i], 0), "KVM's MSR %x does not exist",
              msrs[i]);
}

static unsigned pow2_up(unsigned n)
{
    unsigned p = 1;

    while (p < n)
        p *= 2;
    return p;
}

/* Of the APIC ids of a socket. */
static unsigned room(void)
{
    return pow2_up(package / threads) * pow2_up(threads);
}

/* Leaves 0xB and 0x1F: threads, then cores, then nothing; the x2APIC id in each. */
static bool extended_topology(uint32_t leaf, unsigned id)
{
    struct cpuid thread = cpuid(leaf, 0), core = cpuid(leaf, 1), end = cpuid(leaf, 2);

    return thread.edx == id && core.edx == id && end.edx == id &&
           (thread.ecx & 0xffff) == 0x100 && 1u << (thread.eax & 0x1f) == pow2_up(threads) &&
           thread.ebx == threads && (core.ecx & 0xffff) == 0x201 && core.ebx == package &&
           1u << (core.eax & 0x1f) == room() && (end.ecx & 0xff00) == 0;
}

/* A core's threads share its caches, a socket's processors the third level. */
static bool caches(void)
{
    for (unsigned i = 0; i < 16; i++) {
        struct cpuid c = cpuid(4, i);
        if (!(c.eax & 0x1f))
            return i > 0;
        unsigned sharing = (c.eax >> 5 & 7) >= 3 ? room() : pow2_up(threads);
        if ((c.eax >> 26) + 1 != pow2_up(package / threads) ||
            (c.eax >> 14 & 0xfff) + 1 != sharing)
            return false;
    }
    return false;
}

static bool amd_topology(unsigned id)
{
    struct cpuid size = cpuid(0x80000008, 0), node = cpuid(0x8000001e, 0);
    unsigned bits = size.ecx >> 12 & 0xf;

    if ((size.ecx & 0xff) + 1 != package || 1u << bits != room())
        return false;
    if (!(cpuid(0x80000001, 0).ecx & 1u << 22)) /* TOPOEXT */
        return true;
    return node.eax == id && (node.ebx & 0xff) == id % room() / pow2_up(threads) &&
           (node.ebx >> 8 & 0xff) == threads - 1 && (node.ecx & 0xff) == id / room();
}

static void look(unsigned cpu)
{
    uint32_t highest = cpuid(0, 0).eax;
    struct cpuid one = cpuid(1, 0);
    unsigned id = lapic_id();
    bool intel = is_vendor("GenuineIntel"), amd = is_vendor("AuthenticAMD");
    bool htt = one.edx >> 28 & 1;

    topology[cpu].apic_id = id;
    /* Room for ids, or on AMD a count. */
    topology[cpu].leaf1 =
        one.ebx >> 24 == id &&
        (package == 1 || (htt && (one.ebx >> 16 & 0xff) == (amd ? package : room())));
    topology[cpu].leaf4 = !intel || highest < 4 || caches();
    topology[cpu].leafb = highest < 0xb || !cpuid(0xb, 0).ebx || extended_topology(0xb, id);
    topology[cpu].leaf1f = highest < 0x1f || !cpuid(0x1f, 0).ebx || extended_topology(0x1f, id);
    topology[cpu].amd = !amd || amd_topology(id);
    __atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
}

int main(void)
{
    const char *vendor = arg("vendor");

    cpus = cpus_in_madt();
    threads = (unsigned)arg_number("threads", 1);
    package = cpus / (unsigned)arg_number("sockets", 1);
    print("processor: highest leaf %x, %u processors\n", cpuid(0, 0).eax, cpus);
    if (arg("kvm"))
        signature("KVMKVMKVM");
    else if (vendor)
        signature(vendor + 1);
    else
        hidden();
    if (!arg("kvm"))
        pv_msrs();

    if (!check(smp_start(look, false) == cpus - 1, "the other processors start"))
        finish("cpuid");
    look(0);
    check(wait_count(&done, cpus, 4000), "all processors have looked");
    for (unsigned i = 0; i < cpus; i++) {
        check(topology[i].leaf1, "APIC id %u: leaf 1", topology[i].apic_id);
        check(topology[i].leaf4, "APIC id %u: leaf 4", topology[i].apic_id);
        check(topology[i].leafb, "APIC id %u: leaf 0xB", topology[i].apic_id);
        check(topology[i].leaf1f, "APIC id %u: leaf 0x1F", topology[i].apic_id);
        check(topology[i].amd, "APIC id %u: AMD's leaves", topology[i].apic_id);
    }
    bool apart = true;
    for (unsigned i = 0; i < cpus; i++) {
        for (unsigned j = 0; j < cpus; j++)
            apart &= i == j || topology[i].apic_id != topology[j].apic_id;
        apart &= topology[i].apic_id / room() < cpus / package;
        apart &= topology[i].apic_id % pow2_up(threads) < threads;
    }
    check(apart, "APIC ids are of that many sockets and threads");
    unsigned bits = cpuid(0x80000008, 0).eax & 0xff;
    check(bits >= 36 && bits <= 52, "%u bits of physical address", bits);
    finish("cpuid");
}
