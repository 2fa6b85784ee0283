#!/bin/bash
# Makes the disk of the software host's flavour debian: what issue 5 calls a guest that people can
# work in, and the host's own parts that serve it.
#
#     tests/host/debian.sh     prints the directory that has the file disk
#
# disk is an ext4 file system with
#
#     debian/debian.raw    the guest's disk: a partition table and a Debian of the machine's own
#                          release (systemd, udev, sshd, networkd, the kernel's package)
#     debian/vmlinuz, debian/initrd.img    what belongs into the guest's command line
#     debian/key           lets one in as root by ssh; the console asks for no password
#     rust/                virtiofsd as Debian has it since 13, and its libraries
#     everything else      passt, virtiofsd, ssh, e2fsck for the software host (its init)
#
# In the cache, keyed by the packages' versions and this file; two minutes the first time. Needs
# root (chroot; sudo is used), but neither loop devices nor mounts of its own. Where it cannot be made
# what needs it is skipped. The log of one that failed stays: debian.log.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

packages=(linux-image-amd64 initramfs-tools systemd-sysv udev dbus openssh-server iproute2 kmod zstd e2fsprogs)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# Left out: what nobody reads in there, and the drivers of hardware that no host here has.
unwanted=(/usr/share/{doc,man,locale,info}
    '/lib/modules/*/kernel/drivers/'{media,staging,infiniband,net/wireless,gpu/drm/{amd,i915,nouveau,radeon}})
# Never needed here, and each costs a start that is emulated twice.
masked=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
    e2scrub_reap.service getty@tty1.service systemd-networkd-wait-online.service systemd-pstore.service)

# settings ROOT: before the packages, so that their scripts find them
settings() {
    local units=$1/etc/systemd/system unit
    mkdir -p "$units"/{getty,multi-user}.target.wants "$1"/etc/{systemd/network,initramfs-tools/conf.d} \
        "$1/usr/share/initramfs-tools/modules.d"
    mkdir -m 700 "$1/root" "$1/root/.ssh"
    echo "/dev/vda1 / ext4 errors=remount-ro 0 1" >"$1/etc/fstab"
    echo debian >"$1/etc/hostname"
    printf 'MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\nRESUME=none\n' >"$1/etc/initramfs-tools/conf.d/minivmm"
    printf '%s\n' virtio_pci virtio_blk ext4 >"$1/usr/share/initramfs-tools/modules.d/minivmm"
    # One address for tap, where nobody hands out any, and what passt hands out.
    printf '%s\n' '[Match]' Type=ether '[Network]' DHCP=ipv4 Address=10.9.8.2/24 >"$1/etc/systemd/network/all.network"
    ln -s /lib/systemd/system/systemd-networkd.service "$units/multi-user.target.wants/"
    ln -s /lib/systemd/system/serial-getty@.service "$units/getty.target.wants/serial-getty@ttyS0.service"
    for unit in "${masked[@]}"; do ln -s /dev/null "$units/$unit"; done
}

make_disk() { # in $tmp, as root
    local root=$tmp/root out=$tmp/disk path without=()
    mkdir "$root" "$out" "$out/debian"
    settings "$root"
    for path in "${unwanted[@]}"; do without+=("--dpkgopt=path-exclude=$path/*"); done
    mmdebstrap --mode=root --variant=minbase --format=directory "${without[@]}" --skip=check/empty \
        --aptopt='APT::Install-Recommends "false"' "--include=$(IFS=,; echo "${packages[*]}")" \
        "$release" "$root" - <<<"$sources"
    chroot "$root" passwd -d root
    chroot "$root" ssh-keygen -q -t ed25519 -N '' -C minivmm -f /root/.ssh/key
    mv "$root/root/.ssh/key.pub" "$root/root/.ssh/authorized_keys"
    mv "$root/root/.ssh/key" "$out/debian/"
    cp "$root"/boot/vmlinuz-* "$out/debian/vmlinuz"
    cp "$root"/boot/initrd.img-* "$out/debian/initrd.img"
    # 1 GiB in a partition of type Linux behind the first MiB, in a table as PCs have had it since 1983.
    truncate -s 1025M "$out/debian/debian.raw"
    mke2fs -q -t ext4 -L root -E offset=$((1 << 20)) -d "$root" "$out/debian/debian.raw" 1024M
    put() { dd of="$out/debian/debian.raw" bs=1 seek="$1" conv=notrunc status=none; }
    printf '\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x00\x20\x00' | put 446
    printf '\x55\xaa' | put 510

    copy_program "$helpers" "$out" /usr/bin/{passt,ssh,setpriv,unshare,newuidmap,newgidmap} /sbin/e2fsck \
        "$(cd "$helpers" && find . -path '*/virtiofsd' -type f | sed 's/^\.//;q')"
    chmod u+s "$out"/usr/bin/new{u,g}idmap
    if [ "$rust" ]; then
        copy_program "$rust" "$out/rust" /usr/libexec/virtiofsd
        printf '%s\n' '#!/bin/sh' 'cd /rust || exit' \
            'exec lib64/ld-linux-x86-64.so.2 --library-path usr/lib/x86_64-linux-gnu usr/libexec/virtiofsd "$@"' >"$out/rust/virtiofsd"
        chmod 755 "$out/rust/virtiofsd"
    fi
    mke2fs -q -t ext4 -L host -d "$out" "$tmp/disk.img" 3G
    mkdir "$tmp/done"
    mv "$tmp/disk.img" "$tmp/done/disk"
}

if [ "${1:-}" = make ]; then # as root, see below
    tmp=$2 release=$3 sources=$4 helpers=$5 rust=$6
    make_disk
    exit
fi
root=()
[ "$(id -u)" -eq 0 ] || root=(sudo -n)
mkdir -p "$CACHE"
exec 9>"$CACHE/.lock.debian"
flock 9

helpers=$("$HOST_DIR/fetch.sh" helpers)
rust=$("$HOST_DIR/fetch.sh" virtiofsd) || rust='' # without it a part of scenario share is skipped
versions=$(apt-cache show --no-all-versions "${packages[@]}" 2>/dev/null | grep -E '^(Package|Version):' || true)
dir=$CACHE/debian-$({ echo "$versions" "$helpers" "$rust"; cat "$0"; } | sha256sum | cut -c1-12)
if [ -e "$dir" ]; then
    echo "$dir"
    exit 0
fi
[ "$versions" ] || die "apt knows no packages to make a Debian of"
[ -e $keyring ] || die "no $keyring to check Debian's packages with"
"$TOP/tests/setup.sh" debian >&2
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# shellcheck disable=SC2016 # apt's own variables
sources=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk -v r="$release" -v k=$keyring '$2 == "main" && ($1 == r || $1 == r "-security" || $1 == r "-updates") && !seen[$1]++ {
        print "deb [signed-by=" k "] " $3, $1, $2 }')
grep -q " $release main$" <<<"$sources" || die "apt's sources do not have '$release main'"

tmp=$(mktemp -d "$CACHE/.tmp.XXXXXX")
trap '"${root[@]}" rm -rf "$tmp"' EXIT
log=$CACHE/debian.log
say "making a Debian for a guest, once: two minutes; $log"
"${root[@]}" env "HOME=$HOME" "XDG_CACHE_HOME=${CACHE%/*}" "$0" make "$tmp" "$release" "$sources" "$helpers" "$rust" >"$log" 2>&1 ||
    die "cannot make the guest's Debian: $(tail -n 1 "$log"); see $log"
mv -T "$tmp/done" "$dir"
echo "$dir"
