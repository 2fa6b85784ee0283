/*
 * json.h: JSON from others, read into a struct by a table, and JSON for others, put together
 * in a buffer. Pure functions; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define JSON_STRING_MAX 256 /* with its NUL; a longer one that is in the table is refused */

enum json_kind {
    JSON_NUMBER,  /* a uint64_t */
    JSON_BOOLEAN, /* a bool */
    JSON_STRING,  /* a char[size] */
    JSON_OBJECT,  /* a bool: whether it is there; size 0: nothing is stored */
    JSON_OTHER,   /* the reader's own */
};

struct json_field {
    const char *path; /* "a.b" for {"a":{"b":...}} */
    enum json_kind kind;
    size_t offset, size; /* in what OUT points to */
};

/* Reads TEXT of SIZE bytes, which need not end in a NUL; what is not said stays as it is in
 * OUT. -EINVAL: it is no JSON, or something that is in the table has the wrong type. */
int json_read(const struct json_field *field, unsigned fields, void *out, const char *text,
              size_t size);

/* What does not fit is left out, and CUT says so. */
struct json_text {
    char *at;
    size_t room, len;
    bool cut;
};

void json_add(struct json_text *text, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* In quotes, escaped. */
void json_add_string(struct json_text *text, const char *s);
