#!/bin/bash
# Builds what the software host boots from, all under build/host/images:
#
#     guest.img         the guest's initrd: busybox, that kernel's own drivers, guest/
#     guest-tools.img   the same and the programs that look for a hypervisor
#     vmlinux           the stock kernel, taken out of its bzImage: the host's
#     host-modules.cpio the stock kernel's modules for the host
#     host-base.cpio    the host's part that never changes: busybox, all of the above
#     host-kernels.cpio kernels other than that, for the scenario of this name
#     host-run.cpio     the rest: its init, the scenarios, the guests, minivmm
#
# run.sh makes the host's initrd of the last four, without what this host needs not. Each image is
# made anew only when what goes into it is another (a hash beside it says so), and is renamed into
# place when complete.
#
#     tests/host/images.sh [MINIVMM]     default: build/static/minivmm
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# What each layer can load. A '?' marks what only some kernel versions have.
guest_modules=(bochs nvme crct10dif_generic? crc64_rocksoft_generic? e1000e
    igbvf? snd-hda-intel snd-hda-codec-generic 8250_pci? af_packet? gpio-pci-idio-16? virtio_pci
    virtio_blk virtio-rng virtio_net button evdev vmw_vsock_virtio_transport virtiofs)
host_modules=(kvm-amd vfio-pci vfio_iommu_type1 vfio_virqfd? virtio_pci virtio_console virtio_net
    bochs nvme crct10dif_generic? crc64_rocksoft_generic? e1000e af_packet? vhost_vsock
    virtio_blk ext4 crc32c_generic overlay tun vhost_net) # for the flavour debian
tools=(/usr/bin/systemd-detect-virt /usr/bin/lscpu /usr/sbin/virt-what
    /usr/libexec/virt-what-cpuid-helper /usr/sbin/dmidecode)

out=$BUILD/host/images bin=$BUILD/host/bin
minivmm=${1:-$BUILD/static/minivmm}
mkdir -p "$out" "$bin"
[ -x "$minivmm" ] || die "no $minivmm: build it with 'make STATIC=1'"
exec 8>"$out/.lock"
flock 8

kernel=$("$HOST_DIR/fetch.sh" kernel)
busybox=$("$HOST_DIR/fetch.sh" busybox)
toolbox=$("$HOST_DIR/fetch.sh" tools)
modules=$(echo "$kernel"/lib/modules/*)
tmp=$(mktemp -d "$out/.tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# fresh IMAGE INPUT...: is the image there and made of just these inputs (files
# by content, other words as they are)? Leaves the new hash in $key.
fresh() {
    local image=$1 i
    shift
    key=$(for i in "$@"; do if [ -f "$i" ]; then cat "$i"; else echo "$i"; fi; done | sha256sum)
    [ -e "$out/$image" ] && [ "$(cat "$out/$image.key" 2>/dev/null)" = "$key" ]
}

user_space() { # ROOT: directories and busybox
    mkdir -p "$1"/{bin,sbin,usr/bin,usr/sbin,dev,proc,sys,tmp,run,etc,root,lib}
    cp "$busybox/bin/busybox" "$1/bin/"
    ln -s busybox "$1/bin/sh"
}

# unwrap BZIMAGE: the kernel in it, decompressed (its boot protocol says where it
# is). QEMU starts an ELF kernel by its PVH entry; to let the kernel decompress
# itself in an emulated CPU would cost six seconds of every start.
unwrap() {
    local sectors offset length
    word() { od -An -v -t "u$3" -j "$(($2))" -N "$3" "$1" | tr -d ' '; }
    sectors=$(word "$1" 0x1f1 1) offset=$(word "$1" 0x248 4) length=$(word "$1" 0x24c 4)
    dd if="$1" of="$tmp/payload" bs=1M iflag=skip_bytes,count_bytes status=none \
        skip=$(((sectors + 1) * 512 + offset)) count=$((length - 4)) # the last 4 are its size
    case $(od -An -t x1 -N 4 "$tmp/payload" | tr -d ' ') in
    fd377a58) xz -dc "$tmp/payload" ;;
    28b52ffd) zstd -qdc "$tmp/payload" ;;
    1f8b*) gzip -dc "$tmp/payload" ;;
    *) die "the kernel in $1 is compressed in a way not known here" ;;
    esac
    rm "$tmp/payload"
}

# bootable_disk TREE DISK: an MBR, one EFI system partition of 31 MiB from 1 MiB on; in it GRUB from
# the unpacked packages, where firmware looks for a boot loader, and what that is to boot.
bootable_disk() {
    local tree=$1 disk=$2 at=$2@@1M
    truncate -s 32M "$disk"
    printf '\0\0\2\0\xef\xff\xff\xff\0\x08\0\0\0\xf8\0\0' | dd of="$disk" bs=1 seek=446 conv=notrunc status=none
    printf '\x55\xaa' | dd of="$disk" bs=1 seek=510 conv=notrunc status=none
    tool() { MTOOLS_SKIP_CHECK=1 "$tree/usr/bin/m$1" -i "$at" "${@:2}"; }
    tool format -T 63488 -h 255 -s 63 ::
    tool md ::/EFI ::/EFI/BOOT ::/EFI/debian
    tool copy "$tree"/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi ::/EFI/BOOT/BOOTX64.EFI
    printf '%s\n' 'echo "GRUB of the disk"' "linux /vmlinuz console=ttyS0 quiet panic=-1 t=firmware boots=2" \
        "initrd /guest.img" boot | tool copy - ::/EFI/debian/grub.cfg
    tool copy "$kernel"/boot/vmlinuz-* ::/vmlinuz
    tool copy "$out/guest.img" ::/
}

# The small programs of both layers, static so that they run anywhere.
for c in "$HOST_DIR"/guest/*.c; do
    b=$bin/$(basename "$c" .c)
    [ "$b" -nt "$c" ] || { gcc -static -O2 -Wall -Wextra -Werror -o "$b.$$" "$c" && mv "$b.$$" "$b"; }
done

if ! fresh guest.img "$kernel" "$busybox" "${guest_modules[*]}" "$bin"/* "$HOST_DIR"/guest/{init,t/*} "$0" "$HOST_DIR/lib.sh"; then
    user_space "$tmp/guest"
    copy_modules "$modules" "$tmp/guest" "${guest_modules[@]}"
    cp "$bin"/* "$tmp/guest/bin/"
    cp -r "$HOST_DIR/guest/init" "$HOST_DIR/guest/t" "$tmp/guest/"
    pack "$tmp/guest" "$out/guest.img"
    echo "$key" >"$out/guest.img.key"
fi
if ! fresh guest-tools.img "$out/guest.img.key" "$toolbox" "${tools[*]}"; then
    mkdir "$tmp/tools"
    copy_program "$toolbox" "$tmp/tools" "${tools[@]}"
    pack "$tmp/tools" "$tmp/tools.cpio"
    cat "$out/guest.img" "$tmp/tools.cpio" >"$tmp/guest-tools.img"
    mv "$tmp/guest-tools.img" "$out/"
    echo "$key" >"$out/guest-tools.img.key"
fi
if ! fresh host-modules.cpio "$kernel" "${host_modules[*]}" "$0" "$HOST_DIR/lib.sh"; then
    mkdir "$tmp/modules"
    copy_modules "$modules" "$tmp/modules" "${host_modules[@]}"
    pack "$tmp/modules" "$out/host-modules.cpio"
    echo "$key" >"$out/host-modules.cpio.key"
fi
if ! fresh host-base.cpio "$out/guest-tools.img.key"; then
    bzimage=$(echo "$kernel"/boot/vmlinuz-*)
    unwrap "$bzimage" >"$tmp/vmlinux"
    mv "$tmp/vmlinux" "$out/"
    user_space "$tmp/base"
    cp "$bin"/* "$tmp/base/bin/"
    mkdir "$tmp/base/images"
    cp "$bzimage" "$tmp/base/images/kernel.bin"
    cp "$out/vmlinux" "$tmp/base/images/"
    cp "$out/guest.img" "$out/guest-tools.img" "$tmp/base/images/"
    pack "$tmp/base" "$out/host-base.cpio"
    echo "$key" >"$out/host-base.cpio.key"
fi

# Of what cannot be fetched the scenario skips its part.
kernels=$("$HOST_DIR/fetch.sh" kernels) || kernels=''
newer=$("$HOST_DIR/fetch.sh" newer) || newer=''
firmware=$("$HOST_DIR/fetch.sh" firmware) || firmware=''
if ! fresh host-kernels.cpio "$kernels" "$newer" "$firmware" "$out/guest.img.key" "$0"; then
    mkdir -p "$tmp/others/kernels"
    if [ "$kernels" ]; then
        for k in "$kernels"/boot/{gnumach-*.gz,memtest86+*.bin,ipxe.lkrn}; do
            name=$(basename "$k" .gz)
            gzip -dcf "$k" >"$tmp/others/kernels/${name%%-*}"
        done
    fi
    [ -z "$newer" ] || cp "$newer"/boot/vmlinuz-* "$tmp/others/kernels/backports"
    if [ "$kernels" ] && [ "$firmware" ]; then
        cp "$firmware"/usr/share/cloudhv-efi-x86-64/CLOUDHV.fd "$tmp/others/kernels/"
        bootable_disk "$kernels" "$tmp/others/kernels/disk.raw"
    fi
    pack "$tmp/others" "$out/host-kernels.cpio"
    echo "$key" >"$out/host-kernels.cpio.key"
fi

mkdir -p "$tmp/run/guests" "$tmp/run/bin"
cp "$HOST_DIR/l1/init" "$HOST_DIR/l1/lib.sh" "$tmp/run/"
cp -r "$HOST_DIR/scenarios" "$tmp/run/"
cp "$minivmm" "$tmp/run/bin/minivmm"
[ ! -x "${minivmm%/*}/vfio-emu" ] || cp "${minivmm%/*}/vfio-emu" "$tmp/run/bin/"
for guest in "$BUILD"/guests/*.elf "$BUILD"/guests/*.bin; do
    [ ! -f "$guest" ] || cp "$guest" "$tmp/run/guests/"
done
pack "$tmp/run" "$out/host-run.cpio"
