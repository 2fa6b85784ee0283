/*
 * aml.c: the AML byte encoder.
 *
 * ACPI 6.5, chapter 20 "ACPI Machine Language (AML) Specification": 20.2.2 (names), 20.2.3
 * (data), 20.2.4 "Package Length Encoding", 20.2.5 (terms); 6.4.2 and 6.4.3 (small and large
 * resource descriptors); 19.3.4 "ASL Macros" for EisaId. Only what acpi.c needs.
 *
 * A block is written as opcode and contents; its PkgLength (1 to 4 bytes) is put in between
 * when it is closed, so every length has its shortest form, as iasl writes it.
 *
 * One struct, one thread at a time.
 */
#include <ctype.h>

#include "boot/aml.h"
#include "vmm/util.h"

#define AML_NAME       0x08
#define AML_BYTE       0x0a
#define AML_WORD       0x0b
#define AML_STRING     0x0d
#define AML_DWORD      0x0c
#define AML_QWORD      0x0e
#define AML_SCOPE      0x10
#define AML_BUFFER     0x11
#define AML_PACKAGE    0x12
#define AML_DUAL_NAME  0x2e
#define AML_EXT        0x5b
#define AML_EXT_DEVICE 0x82

void aml_bytes(struct aml *aml, const void *data, size_t len)
{
    if (aml->overflow || len > aml->size - aml->len) {
        aml->overflow = true;
        return;
    }
    memcpy(aml->buf + aml->len, data, len);
    aml->len += len;
}

void aml_data(struct aml *aml, unsigned size, uint64_t value)
{
    uint8_t bytes[8];
    put_le(bytes, sizeof(bytes), value);
    aml_bytes(aml, bytes, size);
}

static void op(struct aml *aml, uint8_t opcode)
{
    aml_data(aml, 1, opcode);
}

/* Puts bytes in front of what was written since MARK. */
static void insert(struct aml *aml, size_t mark, const uint8_t *bytes, size_t len)
{
    size_t tail = aml->len - mark;
    aml_bytes(aml, bytes, len); /* makes room, or notes that there is none */
    if (aml->overflow)
        return;
    memmove(aml->buf + mark + len, aml->buf + mark, tail);
    memcpy(aml->buf + mark, bytes, len);
}

void aml_path(struct aml *aml, const char *path)
{
    if (*path == '\\')
        op(aml, (uint8_t)*path++);
    if (strlen(path) > 4)
        op(aml, AML_DUAL_NAME);
    for (; strlen(path) >= 4; path += path[4] == '.' ? 5 : 4)
        aml_bytes(aml, path, 4);
}

void aml_name(struct aml *aml, const char *path)
{
    op(aml, AML_NAME);
    aml_path(aml, path);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    static const struct {
        uint64_t max;
        uint8_t prefix, size;
    } form[] = {
        {UINT8_MAX, AML_BYTE, 1},
        {UINT16_MAX, AML_WORD, 2},
        {UINT32_MAX, AML_DWORD, 4},
        {UINT64_MAX, AML_QWORD, 8},
    };
    unsigned i = 0;
    if (value <= 1)
        return op(aml, (uint8_t)value); /* ZeroOp, OneOp */
    while (value > form[i].max)
        i++;
    op(aml, form[i].prefix);
    aml_data(aml, form[i].size, value);
}

void aml_string(struct aml *aml, const char *text)
{
    op(aml, AML_STRING);
    aml_bytes(aml, text, strlen(text) + 1);
}

static uint32_t hex(char c)
{
    return (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
}

/* Three letters of five bits, four hex digits, most significant byte first. */
void aml_eisaid(struct aml *aml, const char *id)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < 3; i++)
        value = value << 5 | (uint32_t)(id[i] - '@');
    for (unsigned i = 3; i < 7; i++)
        value = value << 4 | hex(id[i]);
    aml_integer(aml, __builtin_bswap32(value));
}

static size_t begin(struct aml *aml, uint8_t opcode)
{
    op(aml, opcode);
    return aml->len;
}

size_t aml_scope(struct aml *aml, const char *path)
{
    size_t mark = begin(aml, AML_SCOPE);
    aml_path(aml, path);
    return mark;
}

size_t aml_device(struct aml *aml, const char *name)
{
    op(aml, AML_EXT);
    size_t mark = begin(aml, AML_EXT_DEVICE);
    aml_path(aml, name);
    return mark;
}

size_t aml_package(struct aml *aml, uint8_t elements)
{
    size_t mark = begin(aml, AML_PACKAGE);
    aml_data(aml, 1, elements);
    return mark;
}

/* One byte holds lengths below 64; more bytes: their number in the top two bits, the lowest
 * four bits of the length below, the rest in the bytes that follow. The length counts itself.
 */
void aml_end(struct aml *aml, size_t mark)
{
    uint8_t bytes[4];
    size_t body = aml->len - mark;
    unsigned extra = body + 1 < 0x40 ? 0 : body + 2 < 0x1000 ? 1 : body + 3 < 0x100000 ? 2 : 3;
    uint64_t length = body + 1 + extra;
    put_le32(bytes,
             (uint32_t)(extra ? (length >> 4) << 8 | extra << 6 | (length & 0xf) : length));
    insert(aml, mark, bytes, 1 + extra);
}

size_t aml_crs(struct aml *aml)
{
    aml_name(aml, "_CRS");
    return begin(aml, AML_BUFFER);
}

/* BufferOp PkgLength BufferSize ByteList: the size is known only now, too. */
void aml_end_crs(struct aml *aml, size_t mark)
{
    uint8_t prefix[3] = {AML_WORD};
    aml_data(aml, 2, 0x0079); /* end tag, checksum 0: "not checked" */
    size_t size = aml->len - mark;
    if (size <= UINT8_MAX)
        prefix[0] = AML_BYTE;
    put_le16(prefix + 1, (uint16_t)size);
    insert(aml, mark, prefix, size <= UINT8_MAX ? 2 : 3);
    aml_end(aml, mark);
}

void aml_io(struct aml *aml, uint16_t port, uint8_t size)
{
    aml_data(aml, 1, 0x47); /* I/O port descriptor, 7 bytes */
    aml_data(aml, 1, 1);    /* Decode16 */
    aml_data(aml, 2, port);
    aml_data(aml, 2, port);
    aml_data(aml, 1, 1); /* alignment */
    aml_data(aml, 1, size);
}

void aml_memory32_fixed(struct aml *aml, uint32_t base, uint32_t size)
{
    aml_data(aml, 1, 0x86);
    aml_data(aml, 2, 9);
    aml_data(aml, 1, 1); /* ReadWrite */
    aml_data(aml, 4, base);
    aml_data(aml, 4, size);
}

void aml_interrupt(struct aml *aml, uint32_t gsi, bool level)
{
    aml_data(aml, 1, 0x89);
    aml_data(aml, 2, 6);
    aml_data(aml, 1, level ? 0x01 : 0x03); /* ResourceConsumer, ActiveHigh, Exclusive */
    aml_data(aml, 1, 1);
    aml_data(aml, 4, gsi);
}

void aml_window(struct aml *aml, enum aml_window type, unsigned width, uint8_t flags,
                uint64_t min, uint64_t max)
{
    aml_data(aml, 1, width == 2 ? 0x88 : width == 4 ? 0x87 : 0x8a);
    aml_data(aml, 2, 3 + 5 * width);
    aml_data(aml, 1, type);
    aml_data(aml, 1, 0x0c); /* ResourceProducer, PosDecode, MinFixed, MaxFixed */
    aml_data(aml, 1, flags);
    aml_data(aml, width, 0); /* granularity */
    aml_data(aml, width, min);
    aml_data(aml, width, max);
    aml_data(aml, width, 0); /* translation */
    aml_data(aml, width, max - min + 1);
}
