/*
 * util.h: the small things that every layer uses. Knows nothing of the machine.
 */
#pragma once

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#define ARRAY_SIZE(a)                   (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define KIB (1ULL << 10)
#define MIB (1ULL << 20)
#define GIB (1ULL << 30)
#define TIB (1ULL << 40)

#define NS_PER_S 1000000000LL

static inline bool is_pow2(uint64_t v)
{
    return v && !(v & (v - 1));
}

/* ALIGN is a power of two. align_up() wraps to 0 past the top: check where the input is
 * hostile. */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
    return v & ~(align - 1);
}

static inline uint64_t align_up(uint64_t v, uint64_t align)
{
    return align_down(v + align - 1, align);
}

/* Whether [base, base + len) lies within [0, limit), whatever the values. */
static inline bool range_within(uint64_t base, uint64_t len, uint64_t limit)
{
    return base <= limit && len <= limit - base;
}

/* Whether they have a byte in common; for registers, so that no sum wraps. */
static inline bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    return a < b + b_len && b < a + a_len;
}

static inline bool is_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Little-endian access to bytes of any alignment (file formats, configuration space): SIZE
 * bytes (1, 2, 4 or 8) at P as a number, and the reverse. */
static inline uint64_t get_le(const void *p, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, p, size <= sizeof(v) ? size : sizeof(v));
    return le64toh(v);
}

static inline void put_le(void *p, unsigned size, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, size <= sizeof(v) ? size : sizeof(v));
}

static inline uint16_t get_le16(const void *p)
{
    return (uint16_t)get_le(p, 2);
}

static inline uint32_t get_le32(const void *p)
{
    return (uint32_t)get_le(p, 4);
}

static inline uint64_t get_le64(const void *p)
{
    return get_le(p, 8);
}

static inline void put_le16(void *p, uint16_t v)
{
    put_le(p, 2, v);
}

static inline void put_le32(void *p, uint32_t v)
{
    put_le(p, 4, v);
}

static inline void put_le64(void *p, uint64_t v)
{
    put_le(p, 8, v);
}

/* All ones in SIZE bytes: what a read of nothing gives on this architecture. */
static inline uint64_t all_ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (1ULL << (8 * size)) - 1;
}
