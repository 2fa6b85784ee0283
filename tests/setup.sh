#!/bin/bash
# Installs what the named parts of the build need and is not there yet:
#
#     tests/setup.sh SET...      sets: build unit lint host debian kernel
#
# A program or file is what counts, not a package: a compiler that came from
# somewhere else is as good. When everything is there nothing is called at all
# and this takes a few milliseconds, so the Makefile may run it every time.
# On Debian and its children what is missing is installed with apt-get, through
# sudo when not root; elsewhere one line says what is needed and it fails.
# Kernels and the guests' programs are no business of this file: they are
# unpacked, never installed (tests/host/fetch.sh). 'kernel' is what it takes to build
# one, for the few tests that no packaged kernel can do (tests/host/built.sh).
set -euo pipefail

# set, Debian package, what shows that it is there (a program, or a file)
table='
build  gcc                 gcc
build  make                make
build  libc6-dev           /usr/include/stdio.h
build  linux-libc-dev      /usr/include/linux/kvm.h
unit   gcc                 gcc
unit   make                make
unit   libc6-dev           /usr/include/stdio.h
unit   linux-libc-dev      /usr/include/linux/kvm.h
unit   libcriterion-dev    /usr/include/criterion/criterion.h
unit   pkg-config          pkg-config
unit   acpica-tools        iasl
lint   clang               clang
lint   clang-format        clang-format
lint   clang-tidy          clang-tidy
lint   cppcheck            cppcheck
lint   shellcheck          shellcheck
lint   acpica-tools        iasl
host   gcc                 gcc
host   libc6-dev           /usr/include/stdio.h
host   linux-libc-dev      /usr/include/linux/kvm.h
host   binutils            readelf
host   qemu-system-x86     qemu-system-x86_64
host   cpio                cpio
host   kmod                /sbin/depmod
host   libdrm-dev          /usr/include/libdrm/drm.h
host   xz-utils            xz
host   zstd                zstd
debian mmdebstrap          mmdebstrap
debian e2fsprogs           /sbin/mke2fs
debian debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.gpg
kernel gcc                 gcc
kernel make                make
kernel binutils            ld
kernel bison               bison
kernel flex                flex
kernel bc                  bc
kernel libelf-dev          /usr/include/gelf.h
kernel xz-utils            xz
kernel perl                perl
'

die() { echo "tests/setup.sh: $*" >&2; exit 1; }

[ $# -gt 0 ] || die "usage: tests/setup.sh SET... (build unit lint host debian kernel)"
for set in "$@"; do
    grep -q "^$set " <<<"$table" || die "unknown set '$set'; there are: build unit lint host debian kernel"
done

declare -A missing=()
while read -r set package probe; do
    [[ -n $set && " $* " == *" $set "* ]] || continue
    case $probe in
    /*) [ -e "$probe" ] || missing[$package]=$probe ;;
    *) command -v "$probe" >/dev/null || missing[$package]=$probe ;;
    esac
done <<<"$table"
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null ||
    die "not a Debian system: please install what provides: ${missing[*]} (Debian's packages: ${!missing[*]})"
root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "not root and no sudo: please install the packages: ${!missing[*]}"
    root=(sudo)
fi
apt() {
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null
}
echo "tests/setup.sh: installing ${!missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt update && apt install -y --no-install-recommends "${!missing[@]}"; } >"$log" 2>&1; then
    cat "$log" >&2
    die "cannot install: ${!missing[*]}; apt-get said why above"
fi
