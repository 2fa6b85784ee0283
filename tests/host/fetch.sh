#!/bin/bash
# Fetches Debian packages and unpacks them into the cache, without installing:
#
#     tests/host/fetch.sh kernel     the stock kernel, for the host and the guest
#     tests/host/fetch.sh busybox    a static busybox, the user space of both
#     tests/host/fetch.sh tools      what looks for a hypervisor, run in the guest
#     tests/host/fetch.sh source     the source of a newer kernel (built.sh)
#     tests/host/fetch.sh qemu       a newer QEMU, with its libraries (run.sh -f built)
#     tests/host/fetch.sh helpers    what minivmm starts and what talks to a guest (debian.sh)
#     tests/host/fetch.sh virtiofsd  the one in Rust, which Debian has since 13 (debian.sh)
#     tests/host/fetch.sh kernels    kernels that are not Linux, for tests/tiny.sh; a boot loader
#     tests/host/fetch.sh newer      the kernel of Debian's backports
#     tests/host/fetch.sh firmware   EDK II with a PVH entry, which only Debian's sid has
#
# Prints the directory. Its name carries the versions, so a newer package is a
# new directory; where apt knows nothing (no network, no lists) the newest
# directory of the kind in the cache is used. Unpacked under a temporary name and
# renamed, so an interrupted run leaves nothing half done behind; a lock keeps
# concurrent runs from fetching the same twice.
#
# What only Debian's backports or sid have is asked for with a list of sources of our own: the
# machine's stays as it is, and so does what is installed on it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

root=()
[ "$(id -u)" -eq 0 ] || root=(sudo)

# How apt is asked: with the machine's sources, or those of use_suite.
suites=()
lists=/var/lib/apt/lists
apt_get() { apt-get -qq -o APT::Sandbox::User=root "${suites[@]}" "$@" </dev/null; }
apt_cache() { apt-cache "${suites[@]}" "$@" 2>/dev/null; }

# The release that is installed and $suite (its backports, or sid), from the mirror that the machine
# uses (apt knows it, however it is written down), signed by the archive's own key. Nothing is
# installed as far as this apt knows: what the machine has may be in neither suite.
use_suite() {
    local mirror release dir=$CACHE/$suite keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e $keyring ] || without "no $keyring to check Debian's $suite with"
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016 # apt's own variables
    mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v r="$release" '$1 == r && $2 == "main" { print $3; exit }')
    [ "$mirror" ] || without "apt's sources do not have '$release main', so its $suite is not known either"
    mkdir -p "$lists"
    [ "$suite" != backports ] || suite=$release-backports
    printf 'deb [signed-by=%s] %s %s main\n' $keyring "$mirror" "$release" $keyring "$mirror" "$suite" >"$dir/sources.list"
    suites=(-o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$lists" -o Dir::State::status=/dev/null -o "Dir::Cache=$dir"
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o "APT::Default-Release=$suite")
}

update_lists() {
    if [ ${#suites[@]} -gt 0 ]; then apt_get update >&2; else "${root[@]}" apt-get -qq update </dev/null >&2; fi
}

# The names of the .deb files that the packages would be fetched as.
deb_names() { apt_get download --print-uris "$@" 2>/dev/null | awk '{ print $2 }' | LC_ALL=C sort; }

# The package that a metapackage depends on: linux-image-amd64 names the real one.
first_dependency() { apt_cache depends "$1" | awk '$1 == "Depends:" { print $2; exit }'; }

# The named packages and the libraries that they need, directly or not.
with_libraries() {
    apt_cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "$@" |
        awk -v named=" $* " '/^[a-z]/ && (index(named, " " $1 " ") || /^(lib|zlib)/) && !/elogind/' | sort -u
}

packages_of() {
    case $1 in
    kernel) first_dependency linux-image-amd64 ;;
    busybox) echo busybox-static ;;
    kernels) printf '%s\n' memtest86+ ipxe grub-efi-amd64-bin mtools && first_dependency gnumach-image-1-486 ;;
    newer) first_dependency linux-image-cloud-amd64 ;;
    firmware) echo cloudhv-efi-x86-64 ;;
    virtiofsd) with_libraries virtiofsd ;;
    tools) with_libraries systemd util-linux virt-what dmidecode ;;
    source) echo linux-source-6.12 ;;
    qemu) with_libraries qemu-system-x86 qemu-system-data seabios ;;
    # Debian 12 has virtiofsd in a package of QEMU's.
    helpers) with_libraries passt openssh-client e2fsprogs util-linux uidmap "$(apt_cache show virtiofsd | sed -n '1s/Package: //p' | grep . || echo qemu-system-common)" ;;
    *) die "unknown: $1; there are: kernel busybox tools kernels newer firmware helpers virtiofsd source qemu" ;;
    esac
}

newest() {
    local d
    # shellcheck disable=SC2012 # names are ours: no odd characters
    d=$(ls -dt "$CACHE/$1"-*/ 2>/dev/null | head -n 1 || true)
    echo "${d%/}"
}

# without WHY: where there is nothing to fetch, the newest that was fetched before, or the end.
without() {
    dir=$(newest "$kind")
    [ "$dir" ] || die "$1"
    echo "$dir"
    exit 0
}

kind=${1:?kernel, busybox, tools, kernels, newer, firmware, source or qemu}
mkdir -p "$CACHE"
exec 9>"$CACHE/.lock.$kind"
flock 9

# Asking apt takes a second: the last answer is good as long as its lists and this file are.
answer=$CACHE/.answer.$kind
suite=
case $kind in
qemu | newer) suite=backports ;;
firmware | virtiofsd) suite=sid ;;
esac
[ -z "$suite" ] || lists=$CACHE/$suite/lists
if [ "$answer" -nt "$lists" ] && [ "$answer" -nt "$0" ] && dir=$(<"$answer") && [ -e "$dir" ]; then
    echo "$dir"
    exit 0
fi
found() { echo "$1" >"$answer"; echo "$1"; exit 0; }

command -v apt-get >/dev/null ||
    without "the $kind of the software host is Debian's and this machine has no apt-get to fetch it; copy the directory ~/.cache/minivmm from a Debian machine"

if [ "$kind" = source ] && ! [ "$(apt_cache show linux-source-6.12)" ]; then
    suite=backports lists=$CACHE/backports/lists
fi
[ -z "$suite" ] || use_suite
for try in first second; do
    mapfile -t packages < <(packages_of "$kind")
    mapfile -t debs < <([ ${#packages[@]} -eq 0 ] || deb_names "${packages[@]}")
    if [ ${#debs[@]} -eq 0 ]; then
        if [ $try = second ] || [ "$(newest "$kind")" ]; then
            without "apt knows no package for '$kind' even after apt-get update"
        fi
        update_lists || true # without a network nothing is there the second time either
        continue
    fi
    key=$(printf '%s\n' "${debs[@]}" | sha256sum | cut -c1-12)
    [ ${#debs[@]} -gt 1 ] || key=${debs[0]%.deb}
    dir=$CACHE/$kind-$key
    [ ! -e "$dir" ] || found "$dir"

    tmp=$(mktemp -d "$CACHE/.tmp.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    say "fetching ${#debs[@]} package(s) for the $kind: ${packages[0]} ..."
    if (cd "$tmp" && apt_get download "${packages[@]}" >&2); then
        mkdir "$tmp/root"
        for deb in "$tmp"/*.deb; do dpkg -x "$deb" "$tmp/root"; done
        [ "$kind" != kernel ] || /sbin/depmod -b "$tmp/root" "$(basename "$tmp"/root/lib/modules/*)"
        [ "$kind" != newer ] || rm -r "$tmp/root/lib" # no guest loads its modules
        touch "$tmp/root"
        mv -T "$tmp/root" "$dir"
        rm -rf "$tmp"
        found "$dir"
    fi
    [ $try = first ] || without "cannot fetch ${packages[*]}; apt-get said why above"
    update_lists || true # the lists are older than the archive: the version they name is gone
    rm -rf "$tmp"
done
