#!/bin/bash
# make demo: the main job on any machine. In the software host (README.md) a stock
# Debian kernel boots under minivmm with a display card that vfio-pci handed over;
# its own driver draws on the card and the card's screen is saved as build/demo.png.
# Then the same with an NVMe disk and data. A table shows what was passed through.
#
# This uses the software host also where the machine has a usable IOMMU and
# /dev/vfio: a demo must not take a device away from the machine it runs on. How to
# do it with a real card is in the README's quick start.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

{ # read to its end before it runs
SECONDS=0
began() { printf '[%3d s] %s\n' $SECONDS "$*"; }
began "preparing the software host: stock Debian kernel, guest.img, minivmm"
"$HOST_DIR/images.sh" ${MINIVMM:+"$MINIVMM"}
dir=$BUILD/host/demo out=$BUILD/host/demo/demo
began "starting it: QEMU with an emulated AMD-V, IOMMU, display card, disk (emulated: takes a while)"
status=0
"$HOST_DIR/run.sh" -t "${HOST_LIMIT:-600}" demo demo | while read -r what line; do
    case $what in
    NOTE) case $line in "scenario demo") began "software host is up" ;; end | "done demo") ;; *) began "$line" ;; esac ;;
    FAIL) began "FAILED ${line#demo: }" ;;
    PASS) began "ok: ${line#demo: }" ;;
    esac
done || status=$?

# A run's table. minivmm's notes name the host's addresses, the guest's reports its own.
table() { # RUN
    local run=$1
    [ -s "$out/$run.err" ] || return 0
    tr -d '\r' <"$out/$run.out" | sed -n 's/.*@@ INFO //p' >"$out/$run.info"
    awk -v err="$out/$run.err" '
        function row(a, b) { printf "  %-24s %s\n", a, b }
        $1 == "device" { guest = $2 }
        $1 == "driver" { driver = $2 }
        $1 == "disk" { sub(/^disk /, ""); disk[++disks] = $0 }
        /^hypervisor bit/ { bit = $3 }
        END {
            while ((getline line < err) > 0)
                if (match(line, /^minivmm: [^ ]+: /)) {
                    what = substr(line, 10, RLENGTH - 11); rest = substr(line, RLENGTH + 1)
                    if (what != shown) {
                        row(what, what ~ /^0000:/ && guest ? "in the guest: " guest ", driver " driver : "")
                        shown = what
                    }
                    key = rest; sub(/ .*/, "", key); sub(/:$/, "", key); sub(/^[^ ]+ /, "", rest)
                    row("  " key, rest)
                }
            if (bit) row("hypervisor bit in CPUID", bit ", as the guest sees it")
            for (i = 1; i <= disks; i++) row("disk, as the guest sees it", disk[i])
        }' "$out/$run.info"
}
echo
echo "Passed through:"
for run in card disk; do
    table "$run"
    echo
done
if ! grep -q '^PASS' "$dir/results" || grep -q '^FAIL' "$dir/results" || [ $status -ne 0 ]; then
    echo "demo: failed; see $dir" >&2
    grep '^FAIL' "$dir/results" >&2 || true
    exit 1
fi
cp "$dir/screen.png" "$BUILD/demo.png"
echo "The card's screen: ${BUILD#"$TOP"/}/demo.png ($SECONDS s in all)"
exit 0
}
