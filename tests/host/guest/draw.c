/*
 * draw TEXT: draws the test picture on the first display card that has a DRM
 * driver, and stays until it is killed (the picture goes with the process). When
 * the picture is on the screen it prints its size, "WIDTHxHEIGHT".
 *
 * draw --ppm WIDTH HEIGHT TEXT: the same picture to standard output as a PPM
 * file: what the card's screen is compared with, pixel by pixel.
 *
 * A dumb buffer lies in the card's own memory, so each pixel written here goes
 * through the BAR that was handed to the guest. Plain kernel interface, no libdrm.
 */
#include <libdrm/drm.h>
#include <libdrm/drm_mode.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Columns of 5x7 characters from space to '~', least significant bit on top. */
static const uint8_t font[][5] = {
    {0x00, 0x00, 0x00, 0x00, 0x00}, {0x00, 0x00, 0x5f, 0x00, 0x00}, {0x00, 0x07, 0x00, 0x07, 0x00},
    {0x14, 0x7f, 0x14, 0x7f, 0x14}, {0x24, 0x2a, 0x7f, 0x2a, 0x12}, {0x23, 0x13, 0x08, 0x64, 0x62},
    {0x36, 0x49, 0x55, 0x22, 0x50}, {0x00, 0x05, 0x03, 0x00, 0x00}, {0x00, 0x1c, 0x22, 0x41, 0x00},
    {0x00, 0x41, 0x22, 0x1c, 0x00}, {0x08, 0x2a, 0x1c, 0x2a, 0x08}, {0x08, 0x08, 0x3e, 0x08, 0x08},
    {0x00, 0x50, 0x30, 0x00, 0x00}, {0x08, 0x08, 0x08, 0x08, 0x08}, {0x00, 0x60, 0x60, 0x00, 0x00},
    {0x20, 0x10, 0x08, 0x04, 0x02}, {0x3e, 0x51, 0x49, 0x45, 0x3e}, {0x00, 0x42, 0x7f, 0x40, 0x00},
    {0x42, 0x61, 0x51, 0x49, 0x46}, {0x21, 0x41, 0x45, 0x4b, 0x31}, {0x18, 0x14, 0x12, 0x7f, 0x10},
    {0x27, 0x45, 0x45, 0x45, 0x39}, {0x3c, 0x4a, 0x49, 0x49, 0x30}, {0x01, 0x71, 0x09, 0x05, 0x03},
    {0x36, 0x49, 0x49, 0x49, 0x36}, {0x06, 0x49, 0x49, 0x29, 0x1e}, {0x00, 0x36, 0x36, 0x00, 0x00},
    {0x00, 0x56, 0x36, 0x00, 0x00}, {0x00, 0x08, 0x14, 0x22, 0x41}, {0x14, 0x14, 0x14, 0x14, 0x14},
    {0x41, 0x22, 0x14, 0x08, 0x00}, {0x02, 0x01, 0x51, 0x09, 0x06}, {0x32, 0x49, 0x79, 0x41, 0x3e},
    {0x7e, 0x11, 0x11, 0x11, 0x7e}, {0x7f, 0x49, 0x49, 0x49, 0x36}, {0x3e, 0x41, 0x41, 0x41, 0x22},
    {0x7f, 0x41, 0x41, 0x22, 0x1c}, {0x7f, 0x49, 0x49, 0x49, 0x41}, {0x7f, 0x09, 0x09, 0x01, 0x01},
    {0x3e, 0x41, 0x41, 0x51, 0x32}, {0x7f, 0x08, 0x08, 0x08, 0x7f}, {0x00, 0x41, 0x7f, 0x41, 0x00},
    {0x20, 0x40, 0x41, 0x3f, 0x01}, {0x7f, 0x08, 0x14, 0x22, 0x41}, {0x7f, 0x40, 0x40, 0x40, 0x40},
    {0x7f, 0x02, 0x04, 0x02, 0x7f}, {0x7f, 0x04, 0x08, 0x10, 0x7f}, {0x3e, 0x41, 0x41, 0x41, 0x3e},
    {0x7f, 0x09, 0x09, 0x09, 0x06}, {0x3e, 0x41, 0x51, 0x21, 0x5e}, {0x7f, 0x09, 0x19, 0x29, 0x46},
    {0x46, 0x49, 0x49, 0x49, 0x31}, {0x01, 0x01, 0x7f, 0x01, 0x01}, {0x3f, 0x40, 0x40, 0x40, 0x3f},
    {0x1f, 0x20, 0x40, 0x20, 0x1f}, {0x7f, 0x20, 0x18, 0x20, 0x7f}, {0x63, 0x14, 0x08, 0x14, 0x63},
    {0x03, 0x04, 0x78, 0x04, 0x03}, {0x61, 0x51, 0x49, 0x45, 0x43}, {0x00, 0x00, 0x7f, 0x41, 0x41},
    {0x02, 0x04, 0x08, 0x10, 0x20}, {0x41, 0x41, 0x7f, 0x00, 0x00}, {0x04, 0x02, 0x01, 0x02, 0x04},
    {0x40, 0x40, 0x40, 0x40, 0x40}, {0x00, 0x01, 0x02, 0x04, 0x00}, {0x20, 0x54, 0x54, 0x54, 0x78},
    {0x7f, 0x48, 0x44, 0x44, 0x38}, {0x38, 0x44, 0x44, 0x44, 0x20}, {0x38, 0x44, 0x44, 0x48, 0x7f},
    {0x38, 0x54, 0x54, 0x54, 0x18}, {0x08, 0x7e, 0x09, 0x01, 0x02}, {0x08, 0x54, 0x54, 0x54, 0x3c},
    {0x7f, 0x08, 0x04, 0x04, 0x78}, {0x00, 0x44, 0x7d, 0x40, 0x00}, {0x20, 0x40, 0x44, 0x3d, 0x00},
    {0x00, 0x7f, 0x10, 0x28, 0x44}, {0x00, 0x41, 0x7f, 0x40, 0x00}, {0x7c, 0x04, 0x18, 0x04, 0x78},
    {0x7c, 0x08, 0x04, 0x04, 0x78}, {0x38, 0x44, 0x44, 0x44, 0x38}, {0x7c, 0x14, 0x14, 0x14, 0x08},
    {0x08, 0x14, 0x14, 0x18, 0x7c}, {0x7c, 0x08, 0x04, 0x04, 0x08}, {0x48, 0x54, 0x54, 0x54, 0x20},
    {0x04, 0x3f, 0x44, 0x40, 0x20}, {0x3c, 0x40, 0x40, 0x20, 0x7c}, {0x1c, 0x20, 0x40, 0x20, 0x1c},
    {0x3c, 0x40, 0x30, 0x40, 0x3c}, {0x44, 0x28, 0x10, 0x28, 0x44}, {0x0c, 0x50, 0x50, 0x50, 0x3c},
    {0x44, 0x64, 0x54, 0x4c, 0x44}, {0x00, 0x08, 0x36, 0x41, 0x00}, {0x00, 0x00, 0x7f, 0x00, 0x00},
    {0x00, 0x41, 0x36, 0x08, 0x00}, {0x02, 0x01, 0x02, 0x04, 0x02},
};

struct picture {
    uint32_t *pixel;
    int width, height;
};

static void box(struct picture *p, int x, int y, int w, int h, uint32_t colour)
{
    for (int j = y < 0 ? 0 : y; j < y + h && j < p->height; j++)
        for (int i = x < 0 ? 0 : x; i < x + w && i < p->width; i++)
            p->pixel[j * p->width + i] = colour;
}

static void text(struct picture *p, int x, int y, int scale, uint32_t colour, const char *s)
{
    for (; *s && *s != '|'; s++, x += 6 * scale) {
        unsigned c = (unsigned char)*s - ' ';
        if (c >= sizeof font / sizeof *font)
            c = '?' - ' ';
        for (int i = 0; i < 5; i++)
            for (int j = 0; j < 7; j++)
                if (font[c][i] >> j & 1)
                    box(p, x + i * scale, y + j * scale, scale, scale, colour);
    }
}

/* LINES has several lines of text, with '|' between them. */
static void paint(struct picture *p, const char *lines)
{
    static const uint32_t bars[] = {0xffffff, 0xffff00, 0x00ffff, 0x00ff00,
                                    0xff00ff, 0xff0000, 0x0000ff, 0x000000};
    const int w = p->width, h = p->height, foot = h / 6, unit = w / 320 ? w / 320 : 1;

    /* Every pixel of the ground differs from its neighbours: a mapping that is off
     * by a page or a byte cannot look right. */
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            p->pixel[y * w + x] = (uint32_t)(16 + y * 40 / h) << 16 |
                                  (uint32_t)(24 + x * 60 / w) << 8 | (uint32_t)(80 + (x + y) % 64);
    for (int i = 0; i < 8; i++)
        box(p, w * i / 8, h - foot, w / 8 + 1, foot, bars[i]);
    box(p, 0, h - foot - unit, w, unit, 0xffffff);
    text(p, 20 * unit + unit, 24 * unit + unit, 6 * unit, 0x000000, "minivmm");
    text(p, 20 * unit, 24 * unit, 6 * unit, 0xffb000, "minivmm");
    for (int y = 80; *lines; y += 12, lines += strcspn(lines, "|"), lines += *lines == '|')
        text(p, 20 * unit, y * unit, unit, 0xf0f0f0, lines);
}

static int print_ppm(struct picture *p)
{
    printf("P6\n%d %d\n255\n", p->width, p->height);
    for (int i = 0; i < p->width * p->height; i++) {
        putchar(p->pixel[i] >> 16 & 255);
        putchar(p->pixel[i] >> 8 & 255);
        putchar(p->pixel[i] & 255);
    }
    return fflush(stdout) || ferror(stdout);
}

static int fail(const char *what)
{
    fprintf(stderr, "draw: cannot %s: %s\n", what, strerror(errno));
    return 1;
}

/* The first connected output, its first mode (the preferred one) and a CRTC. */
static int find_output(int fd, struct drm_mode_crtc *crtc, uint32_t *connector)
{
    uint32_t crtcs[8], connectors[8], encoders[8];
    struct drm_mode_card_res res = {.crtc_id_ptr = (uintptr_t)crtcs, .count_crtcs = 8,
                                    .connector_id_ptr = (uintptr_t)connectors, .count_connectors = 8,
                                    .encoder_id_ptr = (uintptr_t)encoders, .count_encoders = 8};
    if (ioctl(fd, DRM_IOCTL_MODE_GETRESOURCES, &res) || !res.count_crtcs)
        return -1;
    for (uint32_t i = 0; i < res.count_connectors && i < 8; i++) {
        struct drm_mode_get_connector c = {.connector_id = connectors[i]};
        if (ioctl(fd, DRM_IOCTL_MODE_GETCONNECTOR, &c) || c.connection != 1 || !c.count_modes)
            continue;
        struct drm_mode_modeinfo *modes = calloc(c.count_modes, sizeof *modes);
        struct drm_mode_get_connector again = {.connector_id = connectors[i],
                                               .modes_ptr = (uintptr_t)modes,
                                               .count_modes = c.count_modes};
        if (!modes || ioctl(fd, DRM_IOCTL_MODE_GETCONNECTOR, &again))
            return -1;
        *crtc = (struct drm_mode_crtc){.crtc_id = crtcs[0], .mode = modes[0], .mode_valid = 1};
        *connector = connectors[i];
        free(modes);
        return 0;
    }
    errno = ENODEV;
    return -1;
}

static int show(const char *lines)
{
    struct drm_mode_crtc crtc;
    uint32_t connector;
    int fd = open("/dev/dri/card0", O_RDWR);
    if (fd < 0)
        return fail("open /dev/dri/card0");
    if (find_output(fd, &crtc, &connector))
        return fail("find a connected screen");

    struct picture p = {.width = crtc.mode.hdisplay, .height = crtc.mode.vdisplay};
    struct drm_mode_create_dumb dumb = {.width = (uint32_t)p.width, .height = (uint32_t)p.height, .bpp = 32};
    if (ioctl(fd, DRM_IOCTL_MODE_CREATE_DUMB, &dumb))
        return fail("create a buffer");
    struct drm_mode_fb_cmd fb = {.width = dumb.width, .height = dumb.height, .pitch = dumb.pitch,
                                 .bpp = 32, .depth = 24, .handle = dumb.handle};
    struct drm_mode_map_dumb map = {.handle = dumb.handle};
    if (ioctl(fd, DRM_IOCTL_MODE_ADDFB, &fb) || ioctl(fd, DRM_IOCTL_MODE_MAP_DUMB, &map))
        return fail("use the buffer");
    char *memory = mmap(0, dumb.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)map.offset);
    if (memory == MAP_FAILED)
        return fail("map the buffer");
    crtc.fb_id = fb.fb_id;
    crtc.set_connectors_ptr = (uintptr_t)&connector;
    crtc.count_connectors = 1;
    if (ioctl(fd, DRM_IOCTL_MODE_SETCRTC, &crtc))
        return fail("set the mode");

    p.pixel = calloc((size_t)p.width * (size_t)p.height, 4);
    if (!p.pixel)
        return fail("allocate");
    paint(&p, lines);
    for (int y = 0; y < p.height; y++)
        memcpy(memory + (size_t)y * dumb.pitch, p.pixel + y * p.width, (size_t)p.width * 4);
    /* What the card's memory gives back must be what was put in. */
    for (int y = 0; y < p.height; y++)
        if (memcmp(memory + (size_t)y * dumb.pitch, p.pixel + y * p.width, (size_t)p.width * 4)) {
            fprintf(stderr, "draw: line %d reads back different from what was written\n", y);
            return 1;
        }
    printf("%dx%d\n", p.width, p.height);
    fflush(stdout);
    fclose(stdout);
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "--ppm")) {
        struct picture p = {.width = atoi(argv[2]), .height = atoi(argv[3])};
        p.pixel = calloc((size_t)p.width * (size_t)p.height, 4);
        if (!p.pixel)
            return fail("allocate");
        paint(&p, argv[4]);
        return print_ppm(&p);
    }
    if (argc == 2)
        return show(argv[1]);
    fputs("usage: draw TEXT | draw --ppm WIDTH HEIGHT TEXT\n", stderr);
    return 2;
}
