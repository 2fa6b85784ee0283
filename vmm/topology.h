/*
 * topology.h: how the guest's processors are numbered: sockets of cores of threads.
 *
 * An APIC id is made of fields of whole bits (Intel SDM volume 3A, 9.9.1 "Hierarchical Mapping
 * of Shared Resources"), socket above core above thread, so that ids skip where a field's count
 * is no power of two: with three cores, the second socket begins at 4. The id is also what KVM
 * calls the vCPU's, and the first vCPU's is 0.
 */
#pragma once

#include <stdint.h>

struct topology {
    unsigned sockets, cores, threads; /* cores in a socket, threads in a core; none is 0 */
};

static inline unsigned topology_cpus(const struct topology *t)
{
    return t->sockets * t->cores * t->threads;
}

/* Smallest N with (1 << N) >= COUNT: how many bits COUNT things take. */
static inline uint32_t topology_bits(uint32_t count)
{
    return count > 1 ? 32 - (uint32_t)__builtin_clz(count - 1) : 0;
}

/* Of a socket's bits, those of an APIC id below it. */
static inline uint32_t topology_socket_shift(const struct topology *t)
{
    return topology_bits(t->cores) + topology_bits(t->threads);
}

static inline unsigned topology_socket(const struct topology *t, unsigned index)
{
    return index / t->threads / t->cores;
}

static inline unsigned topology_core(const struct topology *t, unsigned index)
{
    return index / t->threads % t->cores;
}

static inline uint32_t topology_apic_id(const struct topology *t, unsigned index)
{
    return topology_socket(t, index) << topology_socket_shift(t) |
           topology_core(t, index) << topology_bits(t->threads) | index % t->threads;
}
