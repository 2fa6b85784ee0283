/*
 * vfio_user_json.c: what a vfio-user server says about itself in its VERSION reply, as JSON
 * (RFC 8259): {"capabilities":{"max_msg_fds":8,"twin_socket":{"supported":true,...},...}}.
 *
 * A reader for that and no more: it checks the grammar, knows the values in the table below by
 * their path, and passes over all others. Whole numbers only; no surrogates, no check of UTF-8.
 * The text is hostile: nesting and all buffers are bounded. Pure function.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>

#include "vfio/vfio_user.h"
#include "vmm/util.h"

#define DEPTH_MAX 8
#define KEY_MAX   32

enum kind { NUMBER, BOOLEAN, STRING, OBJECT, OTHER };

static const struct known {
    const char *path;
    enum kind kind;
    size_t offset; /* in struct vfio_user_caps; of an OBJECT: none */
} known[] = {
    {"capabilities", OBJECT, 0},
    {"capabilities.max_msg_fds", NUMBER, offsetof(struct vfio_user_caps, max_msg_fds)},
    {"capabilities.max_data_xfer_size", NUMBER,
     offsetof(struct vfio_user_caps, max_data_xfer_size)},
    {"capabilities.max_dma_maps", NUMBER, offsetof(struct vfio_user_caps, max_dma_maps)},
    {"capabilities.pgsizes", NUMBER, offsetof(struct vfio_user_caps, pgsizes)},
    {"capabilities.write_multiple", BOOLEAN, offsetof(struct vfio_user_caps, write_multiple)},
    {"capabilities.twin_socket", OBJECT, 0},
    {"capabilities.twin_socket.supported", BOOLEAN, offsetof(struct vfio_user_caps, twin)},
    {"capabilities.twin_socket.fd_index", NUMBER, offsetof(struct vfio_user_caps, twin_fd)},
    {"capabilities.compatible", STRING, offsetof(struct vfio_user_caps, compatible)},
};

struct value {
    enum kind kind;
    bool plain; /* a whole number that fits, a string without escapes that fits */
    uint64_t number;
    char text[sizeof(((struct vfio_user_caps *)NULL)->compatible)];
};

struct reader {
    const char *p, *end;
    unsigned depth;
    char path[DEPTH_MAX * (KEY_MAX + 1)];
    struct vfio_user_caps *caps;
};

static char peek(const struct reader *r)
{
    return r->p < r->end ? *r->p : '\0';
}

static void skip_space(struct reader *r)
{
    while (peek(r) && strchr(" \t\n\r", *r->p))
        r->p++;
}

/* C, with space before it. */
static bool take(struct reader *r, char c)
{
    skip_space(r);
    if (peek(r) != c)
        return false;
    r->p++;
    return true;
}

static bool take_word(struct reader *r, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(r->end - r->p) < len || memcmp(r->p, word, len) != 0)
        return false;
    r->p += len;
    return true;
}

/* What follows a backslash. */
static bool take_escape(struct reader *r)
{
    if (take_word(r, "u")) {
        for (int i = 0; i < 4; i++) {
            if (!isxdigit((unsigned char)peek(r)))
                return false;
            r->p++;
        }
        return true;
    }
    bool known_escape = peek(r) && strchr("\"\\/bfnrt", *r->p);
    r->p += known_escape;
    return known_escape;
}

/* Behind its first quote. */
static bool take_string(struct reader *r, struct value *v)
{
    size_t len = 0;
    *v = (struct value){.kind = STRING, .plain = true};
    for (;;) {
        if ((unsigned char)peek(r) < ' ')
            return false; /* also the end of the text */
        char c = *r->p++;
        if (c == '"')
            return true;
        v->plain = v->plain && c != '\\' && len + 1 < sizeof(v->text);
        if (v->plain)
            v->text[len++] = c;
        if (c == '\\' && !take_escape(r))
            return false;
    }
}

static bool take_digits(struct reader *r, struct value *v)
{
    if (!isdigit((unsigned char)peek(r)))
        return false;
    for (; isdigit((unsigned char)peek(r)); r->p++) {
        unsigned digit = (unsigned)(*r->p - '0');
        if (__builtin_mul_overflow(v->number, 10, &v->number) ||
            __builtin_add_overflow(v->number, digit, &v->number))
            v->plain = false;
    }
    return true;
}

static bool take_number(struct reader *r, struct value *v)
{
    *v = (struct value){.kind = NUMBER, .plain = peek(r) != '-'};
    r->p += !v->plain;
    if (!take_digits(r, v))
        return false;
    if (take_word(r, ".")) {
        v->plain = false;
        if (!take_digits(r, v))
            return false;
    }
    if (!take_word(r, "e") && !take_word(r, "E"))
        return true;
    v->plain = false;
    if (!take_word(r, "+"))
        take_word(r, "-");
    return take_digits(r, v);
}

/* False when it is a value that is known, and not as it has to be. */
static bool store(struct reader *r, const struct value *v)
{
    const struct known *k = known;
    while (k < known + ARRAY_SIZE(known) && strcmp(k->path, r->path) != 0)
        k++;
    if (k == known + ARRAY_SIZE(known))
        return true;
    char *at = (char *)r->caps + k->offset;
    bool truth = v->number;
    if (k->kind != v->kind || !v->plain)
        return false;
    if (v->kind == NUMBER)
        memcpy(at, &v->number, sizeof(v->number));
    else if (v->kind == BOOLEAN)
        memcpy(at, &truth, sizeof(truth));
    else if (v->kind == STRING)
        memcpy(at, v->text, sizeof(v->text));
    return true;
}

static bool take_value(struct reader *r);

/* Behind its bracket. A key that cannot be that of a known value is passed over as "?". */
static bool take_members(struct reader *r, bool object)
{
    char close = object ? '}' : ']';
    size_t len = strlen(r->path);
    struct value key = {.text = "?"};
    if (take(r, close))
        return true;
    if (r->depth == DEPTH_MAX)
        return false;
    r->depth++;
    do {
        if (object && (!take(r, '"') || !take_string(r, &key) || !take(r, ':')))
            return false;
        bool usable = key.plain && strlen(key.text) < KEY_MAX && !strchr(key.text, '.');
        snprintf(r->path + len, sizeof(r->path) - len, "%s%s", len ? "." : "",
                 usable ? key.text : "?");
        if (!take_value(r))
            return false;
        r->path[len] = '\0';
    } while (take(r, ','));
    r->depth--;
    return take(r, close);
}

static bool take_value(struct reader *r)
{
    struct value v = {.kind = OTHER, .plain = true};
    bool ok = true;
    if (take(r, '{')) {
        v.kind = OBJECT;
        return store(r, &v) && take_members(r, true);
    }
    if (take(r, '['))
        return store(r, &v) && take_members(r, false);
    if (take(r, '"'))
        ok = take_string(r, &v);
    else if (take_word(r, "true"))
        v = (struct value){.kind = BOOLEAN, .plain = true, .number = 1};
    else if (take_word(r, "false"))
        v.kind = BOOLEAN;
    else if (!take_word(r, "null"))
        ok = take_number(r, &v);
    return ok && store(r, &v);
}

int vfio_user_caps_read(struct vfio_user_caps *caps, const char *text, size_t size)
{
    struct reader r = {.p = text, .end = text + size, .caps = caps};
    if (!take_value(&r))
        return -EINVAL;
    skip_space(&r);
    size_t plain =
        strspn(caps->compatible, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "0123456789,._+-");
    return r.p == r.end && !caps->compatible[plain] ? 0 : -EINVAL;
}
