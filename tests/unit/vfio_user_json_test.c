/*
 * vfio_user_json_test.c: a server's capabilities: what is read, what is passed over, what is
 * refused.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vfio/vfio_user.h"
#include "vmm/util.h"

/* In a buffer of its exact size, so that ASan sees a read beyond it. */
static int read_caps(struct vfio_user_caps *caps, const char *text)
{
    size_t size = strlen(text);
    char *copy = malloc(size + !size);
    memcpy(copy, text, size);
    *caps = (struct vfio_user_caps){.max_msg_fds = 1, .twin_fd = UINT64_MAX};
    int err = vfio_user_caps_read(caps, copy, size);
    free(copy);
    return err;
}

Test(vfio_user_json, everything)
{
    struct vfio_user_caps caps;
    cr_assert_eq(read_caps(&caps, " {\"capabilities\" : {\n\"max_msg_fds\":8, "
                                  "\"max_data_xfer_size\":1048576,\"max_dma_maps\" :\t65535,"
                                  "\"pgsizes\":18446744073709551615,\"write_multiple\":true,"
                                  "\"twin_socket\":{\"supported\":true,\"fd_index\":2},"
                                  "\"compatible\":\"a.B_9,x-y+\"}} \r\n"),
                 0);
    cr_expect_eq(caps.max_msg_fds, 8);
    cr_expect_eq(caps.max_data_xfer_size, 1048576);
    cr_expect_eq(caps.max_dma_maps, 65535);
    cr_expect_eq(caps.pgsizes, UINT64_MAX);
    cr_expect(caps.write_multiple);
    cr_expect(caps.twin);
    cr_expect_eq(caps.twin_fd, 2);
    cr_expect_str_eq(caps.compatible, "a.B_9,x-y+");
}

Test(vfio_user_json, table)
{
    static const struct {
        const char *text;
        int err;
        uint64_t fds; /* max_msg_fds afterwards */
    } row[] = {
        /* nothing that is known */
        {"{}", 0, 1},
        {"{\"capabilities\":{}}", 0, 1},
        {"[]", 0, 1},
        {"7", 0, 1},
        {"null", 0, 1},
        {"\"text\"", 0, 1},
        {"{\"max_msg_fds\":8}", 0, 1},
        {"{\"other\":{\"max_msg_fds\":8}}", 0, 1},
        {"{\"capabilities\":{\"migration\":{\"pgsize\":4096,\"max_msg_fds\":8}}}", 0, 1},
        {"[{\"capabilities\":{\"max_msg_fds\":8}}]", 0, 1},
        /* keys that only look like it */
        {"{\"capabilities.max_msg_fds\":8}", 0, 1},
        {"{\"capabilities\":{\"max_msg_fd\\u0073\":8}}", 0, 1},
        {"{\"capabilities\":{\"max_msg_fds_which_is_too_long_a_key_for_us\":8}}", 0, 1},
        {"{\"capabilities\":{\"\":8}}", 0, 1},
        /* values of all kinds, passed over */
        {"{\"x\":[1,-2.5e+7,0E-1,true,false,null,\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u12aF\",{},[]],"
         "\"capabilities\":{\"max_msg_fds\":8}}",
         0, 8},
        {"{\"capabilities\":{\"max_msg_fds\":8,\"max_msg_fds\":9}}", 0, 9},
        {"{\"capabilities\":{\"max_msg_fds\":0}}", 0, 0},
        /* known, of the wrong kind */
        {"{\"capabilities\":3}", -EINVAL, 1},
        {"{\"capabilities\":[]}", -EINVAL, 1},
        {"{\"capabilities\":{\"max_msg_fds\":\"8\"}}", -EINVAL, 1},
        {"{\"capabilities\":{\"max_msg_fds\":true}}", -EINVAL, 1},
        {"{\"capabilities\":{\"max_msg_fds\":null}}", -EINVAL, 1},
        {"{\"capabilities\":{\"max_msg_fds\":{}}}", -EINVAL, 1},
        {"{\"capabilities\":{\"max_msg_fds\":-8}}", -EINVAL, 1},
        {"{\"capabilities\":{\"max_msg_fds\":8.0}}", -EINVAL, 1},
        {"{\"capabilities\":{\"max_msg_fds\":8e1}}", -EINVAL, 1},
        {"{\"capabilities\":{\"max_msg_fds\":18446744073709551616}}", -EINVAL, 1},
        {"{\"capabilities\":{\"max_msg_fds\":99999999999999999999}}", -EINVAL, 1},
        {"{\"capabilities\":{\"write_multiple\":1}}", -EINVAL, 1},
        {"{\"capabilities\":{\"twin_socket\":true}}", -EINVAL, 1},
        {"{\"capabilities\":{\"twin_socket\":{\"fd_index\":-1}}}", -EINVAL, 1},
        {"{\"capabilities\":{\"compatible\":7}}", -EINVAL, 1},
        {"{\"capabilities\":{\"compatible\":\"a b\"}}", -EINVAL, 1},
        {"{\"capabilities\":{\"compatible\":\"a\\u0041\"}}", -EINVAL, 1},
        {"{\"capabilities\":{\"compatible\":\"a\303\244\"}}", -EINVAL, 1},
        /* no JSON */
        {"", -EINVAL, 1},
        {" ", -EINVAL, 1},
        {"{", -EINVAL, 1},
        {"}", -EINVAL, 1},
        {"{}}", -EINVAL, 1},
        {"{} x", -EINVAL, 1},
        {"{\"a\"}", -EINVAL, 1},
        {"{\"a\":}", -EINVAL, 1},
        {"{\"a\":1,}", -EINVAL, 1},
        {"{a:1}", -EINVAL, 1},
        {"{\"a\":1 \"b\":2}", -EINVAL, 1},
        {"[1,]", -EINVAL, 1},
        {"[1", -EINVAL, 1},
        {"[1}", -EINVAL, 1},
        {"\"open", -EINVAL, 1},
        {"\"\\", -EINVAL, 1},
        {"\"\\x\"", -EINVAL, 1},
        {"\"\\u12g4\"", -EINVAL, 1},
        {"\"\\u12", -EINVAL, 1},
        {"\"a\nb\"", -EINVAL, 1},
        {"tru", -EINVAL, 1},
        {"truE", -EINVAL, 1},
        {"-", -EINVAL, 1},
        {"1.", -EINVAL, 1},
        {".5", -EINVAL, 1},
        {"1e", -EINVAL, 1},
        {"1e+", -EINVAL, 1},
        {"+1", -EINVAL, 1},
        {"NaN", -EINVAL, 1},
    };
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        struct vfio_user_caps caps;
        cr_expect_eq(read_caps(&caps, row[i].text), row[i].err, "%s", row[i].text);
        cr_expect_eq(caps.max_msg_fds, row[i].fds, "%s", row[i].text);
    }
}

static int read_nested(unsigned depth, const char *open, const char *close)
{
    struct vfio_user_caps caps;
    char *text = calloc(1, depth * 8 + 2);
    for (unsigned i = 0; i < depth; i++)
        strcat(text, open);
    strcat(text, "1");
    for (unsigned i = 0; i < depth; i++)
        strcat(text, close);
    int err = read_caps(&caps, text);
    free(text);
    return err;
}

Test(vfio_user_json, nesting_has_an_end)
{
    cr_expect_eq(read_nested(8, "[", "]"), 0);
    cr_expect_eq(read_nested(9, "[", "]"), -EINVAL);
    cr_expect_eq(read_nested(8, "{\"a\":", "}"), 0);
    cr_expect_eq(read_nested(2000, "{\"a\":", "}"), -EINVAL);
}

Test(vfio_user_json, compatible_of_any_length)
{
    for (size_t len = 0; len < 130; len++) {
        char text[256] = "{\"capabilities\":{\"compatible\":\"";
        struct vfio_user_caps caps;
        for (size_t i = 0; i < len; i++)
            strcat(text, "c");
        strcat(text, "\"}}");
        cr_expect_eq(read_caps(&caps, text), len < sizeof(caps.compatible) ? 0 : -EINVAL);
    }
}

Test(vfio_user_json, nul_inside)
{
    static const char text[] = "{}\0{";
    struct vfio_user_caps caps = {0};
    cr_expect_eq(vfio_user_caps_read(&caps, text, 4), -EINVAL);
}

/* Every prefix and every damaged byte of a good text ends well. */
Test(vfio_user_json, damaged)
{
    static const char good[] = "{\"capabilities\":{\"max_msg_fds\":8,\"compatible\":\"x,y\","
                               "\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}";
    for (size_t i = 0; i + 1 < sizeof(good); i++) {
        char text[sizeof(good)];
        struct vfio_user_caps caps;
        memcpy(text, good, sizeof(good));
        text[i] = '\0';
        cr_expect_eq(read_caps(&caps, text), -EINVAL);
        for (int c = 1; c < 256; c++) {
            memcpy(text, good, sizeof(good));
            text[i] = (char)c;
            read_caps(&caps, text);
            cr_expect_lt(strlen(caps.compatible), sizeof(caps.compatible));
        }
    }
}
