#!/bin/bash
# The end-to-end tests: everything that needs a real KVM, IOMMU and VFIO, so it is
# done in the software host (README.md). Two of these machines run side by side,
# as there are two cores. Prints a verdict a line, PASS / FAIL / SKIP, as they come,
# leaves them in build/results/host.txt, and ends with a count.
#
#     tests/host/check.sh [SCENARIO...]     default: all of them
#
# Wants build/static/minivmm ('make STATIC=1') or what MINIVMM names, and the tiny
# guests in build/guests ('make guests').
set -uo pipefail
. "$(dirname "$0")/lib.sh"

{ # read to its end before it runs: an edit meanwhile does not break a running test
results=$BUILD/results/host.txt
mkdir -p "$BUILD/results"
: >"$results"
"$HOST_DIR/images.sh" ${MINIVMM:+"$MINIVMM"} || { echo "FAIL host: cannot build the software host's images" | tee "$results"; exit 1; }

# Two halves that take about the same time.
first=(layout boot display errors edu serial bind)
second=(tools nvme net ends)
if [ $# -gt 0 ]; then first=("$@") second=(); fi

# lane NAME SCENARIO...: one software host; its lines, marked as this part's. A host
# that ends early is a failure of its own, besides what its scenarios did not report.
lane() {
    local name=$1 line
    shift
    [ $# -gt 0 ] || return 0
    {
        "$HOST_DIR/run.sh" -t "${HOST_LIMIT:-1200}" "$name" "$@" 2>&1 || echo "FAIL $name: the software host broke off"
    } | while IFS= read -r line; do
        case $line in
        "PASS "* | "FAIL "* | "SKIP "*)
            line="${line%% *} host/${line#* }"
            echo "$line" >>"$results"
            ;;
        "NOTE "*) continue ;;
        esac
        echo "$line"
    done
}
lane first "${first[@]}" &
lanes=($!)
lane second "${second[@]}" &
lanes+=($!)
trap 'kill "${lanes[@]}" 2>/dev/null' INT TERM
wait

# Every scenario that was asked for must have said something.
for s in "${first[@]}" "${second[@]}"; do
    grep -q "^[A-Z]* host/$s: " "$results" || echo "FAIL host/$s: gave no verdict" | tee -a "$results"
done
count() { grep -c "^$1 " "$results"; }
failed=$(count FAIL)
echo "$(count PASS) passed, $failed failed, $(count SKIP) skipped"
[ "$failed" -eq 0 ]
exit
}
