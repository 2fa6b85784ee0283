/*
 * control.h: the control socket: commands from other processes of this user, one JSON object a
 * line in the style of QMP, each answered by one line.
 *
 *   {"execute":"status"}   {"return":{...}}   {"error":{"class":"...","desc":"..."}}
 *
 * No greeting and no events; members other than "execute" are passed over. Everything runs in
 * the loop's thread.
 */
#pragma once

struct control;
struct json_text;
struct loop;

struct control_command {
    const char *name;
    /* Adds its result, an object, to OUT; nothing is {}. Or returns what went wrong. */
    const char *(*run)(void *opaque, struct json_text *out);
};

/* Listens at PATH, which outlives it and only this user may open; a socket left over there,
 * which nobody listens at, is replaced. COMMANDS end with a row without a name. Logs its own
 * errors. */
int control_create(struct control **out, const char *path, struct loop *loop,
                   const struct control_command *commands, void *opaque);
/* The socket is removed, connections are closed. NULL is fine. */
void control_destroy(struct control *control);
