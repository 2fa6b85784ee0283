# shellcheck shell=bash
# What the scripts of the software host share: where things are, messages, and
# the closures (of kernel modules, of shared libraries) that the initrd
# builders need. Sourced, never run. See README.md for the three layers.

HOST_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(cd "$HOST_DIR/../.." && pwd)
BUILD=${BUILD:-$TOP/build}
export CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/minivmm

say() { echo "$*" >&2; }
die() { echo "${0##*/}: $*" >&2; exit 1; }

# modules_closure KVER_DIR NAME...: the paths (relative to KVER_DIR) of the named
# modules and of everything they need, each after what it needs: modules.dep
# lists a module's needs in reverse order of loading. A name that is built into
# the kernel needs no file; one that ends in '?' may be missing altogether, as
# some are only in older or only in newer kernels.
modules_closure() {
    local dir=$1
    shift
    awk -v want="$*" '
        function key(p) { sub(/.*\//, "", p); sub(/\.ko.*/, "", p); gsub(/-/, "_", p); return p }
        FILENAME ~ /builtin$/ { builtin[key($0)] = 1; next }
        {
            path = $1; sub(/:$/, "", path); k = key(path); file[k] = path
            $1 = ""; needs[k] = $0
        }
        function add(path) { if (!(path in seen)) { seen[path] = 1; print path } }
        END {
            n = split(want, w, " ")
            for (i = 1; i <= n; i++) {
                maybe = sub(/\?$/, "", w[i]); k = key(w[i])
                if (k in file) {
                    m = split(needs[k], d, " ")
                    for (j = m; j >= 1; j--) add(d[j])
                    add(file[k])
                } else if (!(k in builtin) && !maybe) {
                    print "no module " w[i] " in this kernel" > "/dev/stderr"; bad = 1
                }
            }
            exit bad
        }' "$dir/modules.builtin" "$dir/modules.dep"
}

# copy_modules KVER_DIR ROOT NAME...: copies the closure into ROOT/lib/modules/KVER
# (decompressed: newer packages have .ko.xz), with a modules.dep and
# modules.alias for exactly these, so that busybox modprobe finds its way there.
copy_modules() {
    local dir=$1 root=$2 to path plain
    shift 2
    to=$root/lib/modules/${dir##*/}
    modules_closure "$dir" "$@" >"$root/.closure"
    while read -r path; do
        plain=${path%.xz} plain=${plain%.zst} plain=${plain%.gz}
        mkdir -p "$to/${plain%/*}"
        case $path in
        *.xz) xz -dc "$dir/$path" >"$to/$plain" ;;
        *.zst) zstd -qdc "$dir/$path" >"$to/$plain" ;;
        *.gz) gzip -dc "$dir/$path" >"$to/$plain" ;;
        *) cp "$dir/$path" "$to/$plain" ;;
        esac
    done <"$root/.closure"
    awk 'NR == FNR { p = $1; sub(/.*\//, "", p); sub(/\.ko.*/, "", p); gsub(/-/, "_", p); have[p] = 1; next }
         $3 in have' "$root/.closure" "$dir/modules.alias" >>"$to/modules.alias"
    # Lines of modules.dep whose own module is in the closure, without the suffix.
    awk 'NR == FNR { have[$1] = 1; next }
         { p = $1; sub(/:$/, "", p); if (p in have) { gsub(/\.ko\.(xz|zst|gz)/, ".ko"); print } }' \
        "$root/.closure" "$dir/modules.dep" >>"$to/modules.dep"
    rm "$root/.closure"
}

# copy_program TREE ROOT PATH...: copies programs from an unpacked tree of
# packages, and the shared libraries they need found in the same tree (never
# the machine's own, which may be of any distribution). A path that is not
# there is looked for under /usr too and without it (merged /usr).
copy_program() {
    local tree=$1 root=$2 path from name so
    shift 2
    local -a queue=("$@")
    while [ ${#queue[@]} -gt 0 ]; do
        path=${queue[0]} queue=("${queue[@]:1}")
        [ ! -e "$root/$path" ] || continue
        from=
        for name in "$tree$path" "$tree/usr$path" "$tree${path#/usr}"; do
            if [ -e "$name" ]; then from=$name; break; fi
        done
        [ "$from" ] || die "no $path in ${tree##*/}"
        mkdir -p "$root/${path%/*}"
        cp -L "$from" "$root/$path"
        while read -r so; do
            case $so in
            /*) queue+=("$so") ;; # the ELF interpreter
            *)
                name=$(find "$tree" \( -type f -o -type l \) -name "$so" -print -quit)
                [ "$name" ] || die "no library $so (for $path) in ${tree##*/}"
                queue+=("${name#"$tree"}")
                ;;
            esac
        done < <({ readelf -dl "$from" 2>/dev/null || true; } | sed -n \
            -e 's/.*(NEEDED).*\[\(.*\)\].*/\1/p' \
            -e 's/.*program interpreter: \(.*\)\]$/\1/p')
    done
}

# pack ROOT FILE: a directory as an uncompressed cpio archive. Unpacking costs
# emulated time in both layers, memory does not, so nothing is compressed; the
# kernel accepts several archives after each other (each padded to 512 bytes by
# cpio), so the parts that never change are packed once.
pack() {
    (cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$2.$$"
    mv "$2.$$" "$2"
}
