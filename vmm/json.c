/*
 * json.c: see json.h (RFC 8259).
 *
 * The reader checks the grammar, knows the values in the caller's table by their path, and
 * passes over all others. Whole numbers only; no surrogates, no check of UTF-8. The text is
 * hostile: nesting and all buffers are bounded.
 */
#include "vmm/json.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "vmm/util.h"

#define DEPTH_MAX 8
#define KEY_MAX   32

struct value {
    enum json_kind kind;
    bool plain; /* a whole number that fits, a string without escapes that fits */
    uint64_t number;
    char text[JSON_STRING_MAX];
};

struct reader {
    const char *p, *end;
    unsigned depth;
    char path[DEPTH_MAX * (KEY_MAX + 1)];
    const struct json_field *field;
    unsigned fields;
    void *out;
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
    *v = (struct value){.kind = JSON_STRING, .plain = true};
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
    *v = (struct value){.kind = JSON_NUMBER, .plain = peek(r) != '-'};
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
static bool store(const struct reader *r, const struct value *v)
{
    const struct json_field *f = r->field, *end = f + r->fields;
    while (f < end && strcmp(f->path, r->path) != 0)
        f++;
    if (f == end)
        return true;
    char *at = (char *)r->out + f->offset;
    bool truth = v->kind == JSON_OBJECT || v->number;
    if (f->kind != v->kind || !v->plain)
        return false;
    if (v->kind == JSON_STRING) {
        size_t len = strlen(v->text);
        if (len >= f->size)
            return false;
        memcpy(at, v->text, len + 1);
    } else if (f->size) {
        memcpy(at, v->kind == JSON_NUMBER ? (const void *)&v->number : &truth, f->size);
    }
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
    struct value v = {.kind = JSON_OTHER, .plain = true};
    bool ok = true;
    if (take(r, '{')) {
        v.kind = JSON_OBJECT;
        return store(r, &v) && take_members(r, true);
    }
    if (take(r, '['))
        return store(r, &v) && take_members(r, false);
    if (take(r, '"'))
        ok = take_string(r, &v);
    else if (take_word(r, "true"))
        v = (struct value){.kind = JSON_BOOLEAN, .plain = true, .number = 1};
    else if (take_word(r, "false"))
        v.kind = JSON_BOOLEAN;
    else if (!take_word(r, "null"))
        ok = take_number(r, &v);
    return ok && store(r, &v);
}

int json_read(const struct json_field *field, unsigned fields, void *out, const char *text,
              size_t size)
{
    struct reader r = {
        .p = text, .end = text + size, .field = field, .fields = fields, .out = out};
    if (!take_value(&r))
        return -EINVAL;
    skip_space(&r);
    return r.p == r.end ? 0 : -EINVAL;
}

/* ---- writing ---- */

void json_add(struct json_text *text, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    size_t room = text->room - text->len;
    int n = vsnprintf(text->at + text->len, room, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= room)
        text->cut = true;
    else
        text->len += (size_t)n;
}

void json_add_string(struct json_text *text, const char *s)
{
    json_add(text, "\"");
    for (; *s; s++) {
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            json_add(text, "\\u%04x", (unsigned)*s);
        else
            json_add(text, "%s%c", strchr("\"\\", *s) ? "\\" : "", *s);
    }
    json_add(text, "\"");
}
