#!/bin/bash
# Builds the software host's own kernel: the source of Debian's package, `make tinyconfig` and
# built.config, for what no packaged kernel has (iommufd, VFIO's character devices, a
# sample of a mediated device).
#
#     tests/host/built.sh     prints the directory that has bzImage, vmlinux and config
#
# In the cache, keyed by the package's version and the configuration; six minutes the first time
# on two CPUs. Built in a temporary directory and renamed when complete; a lock keeps concurrent
# runs from building the same twice. The log of a build that failed stays: built.log.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

config=$HOST_DIR/built.config log=$CACHE/built.log
mkdir -p "$CACHE"
exec 9>"$CACHE/.lock.built"
flock 9

source=$("$HOST_DIR/fetch.sh" source)
version=${source##*/source-}
dir=$CACHE/built-$version-$(sha256sum <"$config" | cut -c1-12)
if [ -e "$dir" ]; then
    echo "$dir"
    exit 0
fi

"$TOP/tests/setup.sh" kernel >&2
tmp=$(mktemp -d "$CACHE/.tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
say "building the software host's own kernel, once: some minutes; $log"
build() {
    tar -xf "$source"/usr/src/linux-source-*.tar.xz -C "$tmp" --strip-components=1
    cd "$tmp"
    make -s tinyconfig
    scripts/kconfig/merge_config.sh -m .config "$config"
    make -s olddefconfig
    # What the version at hand does not know or does not let one have is better known now.
    grep '^CONFIG_.*=y$' "$config" | grep -vxFf .config | sed 's/^/not to be had: /' >lost || true
    cat lost
    [ ! -s lost ]
    make -s "-j$(nproc)" bzImage
    mkdir out
    cp arch/x86/boot/bzImage vmlinux out/
    cp .config out/config
}
# A command of its own, so that the first failure in it is the last.
export -f build
export source tmp config
if ! bash -euc build >"$log" 2>&1; then
    die "cannot build the software host's kernel: $(tail -n 1 "$log"); see $log"
fi
mv "$log" "$tmp/out/log"
mv -T "$tmp/out" "$dir"
echo "$dir"
