#!/bin/bash
# The end-to-end tests: everything that needs a real KVM, IOMMU and VFIO, so it is
# done in the software host (README.md). Two of these machines run side by side,
# as there are two cores. Prints a verdict a line, PASS / FAIL / SKIP, as they come,
# leaves them in build/results/host.txt, and ends with a count.
#
#     tests/host/check.sh [SCENARIO...]     default: all of them, the long ones with LONG=1
#
# Wants build/static/minivmm and vfio-emu ('make STATIC=1 all emu') or what MINIVMM names, and
# the tiny guests in build/guests ('make guests').
set -uo pipefail
. "$(dirname "$0")/lib.sh"

{ # read to its end before it runs: an edit meanwhile does not break a running test
results=$BUILD/results/host.txt
mkdir -p "$BUILD/results"
: >"$results"
"$HOST_DIR/images.sh" ${MINIVMM:+"$MINIVMM"} || { echo "FAIL host: cannot build the software host's images" | tee "$results"; exit 1; }

# Two halves that take about the same time.
first=(layout vga boot display tools errors bind huge removal subset kernels)
second=(nvme hugepages disk vnet net ends emulated edu serial cycles p2p realloc group vsock)
# After these, what needs the built kernel or the disk with a Debian (README.md); of what was asked
# for it is taken out.
first_built=(iommufd)
second_built=(mdev sriov)
first_debian=(debian share)
limit=1800
[ -z "${LONG:-}" ] || { second+=(reboots) && limit=5400; } # make check-long
if [ $# -gt 0 ]; then
    all_built=" ${first_built[*]} ${second_built[*]} " all_debian=" ${first_debian[*]} "
    first=() second=() first_built=() second_built=() first_debian=()
    for s; do
        case $all_built/$all_debian in
        *" $s "*/*) first_built+=("$s") ;;
        */*" $s "*) first_debian+=("$s") ;;
        *) first+=("$s") ;;
        esac
    done
fi

# What that needs is made before any software host runs; where it cannot be, its scenarios are
# skipped, and say why.
# What this leaves in built and debian, other_lane looks at by name.
built='' debian=''
# shellcheck disable=SC2034
if [ ${#first_built[@]} -gt 0 ] || [ ${#second_built[@]} -gt 0 ]; then
    if "$HOST_DIR/built.sh" 2>&1 >/dev/null | tee "$BUILD/results/built.txt" >&2; then
        built=1
        "$HOST_DIR/fetch.sh" qemu >/dev/null || true
    fi
fi

# shellcheck disable=SC2034
if [ ${#first_debian[@]} -gt 0 ]; then
    if "$HOST_DIR/debian.sh" 2>&1 >/dev/null | tee "$BUILD/results/debian.txt" >&2; then debian=1; fi
fi

# other_lane NAME FLAVOUR SCENARIO...: one that what it needs may be missing for
other_lane() {
    local name=$1 flavour=$2 s
    if [ "${!flavour}" ]; then
        lane "$@"
    else
        shift 2
        for s; do echo "SKIP host/$s: all of it: $(tail -n 1 "$BUILD/results/$flavour.txt")"; done | tee "$results.$name"
    fi
}
# lane NAME FLAVOUR SCENARIO...: one software host. Where the host itself dies or hangs (QEMU's SVM is
# not perfect, README.md), what is left is done in a new one, once; what was said by the
# scenario that it died in does not count. Nothing that fails in a host that lives is repeated.
lane() {
    local name=$1 flavour=$2 try run status
    shift 2
    : >"$results.$name"
    for try in 1 2; do
        [ $# -gt 0 ] || return 0
        run=$BUILD/host/$name$try status=0
        "$HOST_DIR/run.sh" -f "$flavour" -t "${HOST_LIMIT:-$limit}" "$name$try" "$@" 2>&1 | sed -n -E -u \
            -e '/^NOTE/d' -e 's/^(PASS|FAIL|SKIP) /\1 host\//' -e p
        status=${PIPESTATUS[0]}
        [ "$status" -eq 3 ] && [ $try = 1 ] || break
        verdicts "$run" >>"$results.$name"
        while [ $# -gt 0 ] && grep -q "^NOTE done $1$" "$run/results"; do shift; done
        echo "== the software host died in: ${1:-its end}; what is left once more, in a new one"
    done
    verdicts "$run" all >>"$results.$name"
    [ "$status" -eq 0 ] || echo "FAIL host/$name: the software host broke off" | tee -a "$results.$name"
}
verdicts() { # RUN [all]: of the scenarios that came to their end, or of all
    awk -v all="${2:-}" '
        /^(PASS|FAIL|SKIP) / { sub(/ /, " host/"); held = held $0 "\n" }
        /^NOTE done / { printf "%s", held; held = "" }
        END { if (all) printf "%s", held }' "$1/results"
}
export HOST_CPU=0
{
    lane first stock "${first[@]}"
    other_lane first-built built "${first_built[@]}"
    other_lane first-debian debian "${first_debian[@]}"
} &
lanes=($!)
export HOST_CPU=1
{
    lane second stock "${second[@]}"
    other_lane second-built built "${second_built[@]}"
} &
lanes+=($!)
trap 'kill "${lanes[@]}" 2>/dev/null' INT TERM
wait
parts=("$results".{first,second}{,-built} "$results.first-debian")
cat "${parts[@]}" >"$results"
rm "${parts[@]}"

# Every scenario that was asked for must have said something.
for s in "${first[@]}" "${second[@]}" "${first_built[@]}" "${second_built[@]}" "${first_debian[@]}"; do
    grep -q "^[A-Z]* host/$s: " "$results" || echo "FAIL host/$s: gave no verdict" | tee -a "$results"
done
count() { grep -c "^$1 " "$results"; }
failed=$(count FAIL)
echo "$(count PASS) passed, $failed failed, $(count SKIP) skipped"
[ "$failed" -eq 0 ]
exit
}
