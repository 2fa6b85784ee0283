#!/usr/bin/env bash
# check.sh [PART...]: all tests (`make check`), or some of them.
#
# Each part writes its verdicts, a line each, to build/results/PART.txt:
#     PASS name        FAIL name: why        SKIP name: why
# and the last line printed counts them all. A part that ends without a verdict, or with an error
# but no FAIL line, is itself a failure: nothing passes by not having run.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

MAKEFLAGS=-j$(nproc)
export MAKEFLAGS
RESULTS=build/results
mkdir -p "$RESULTS"

# Criterion's TAP output as verdict lines.
tap() {
    sed -nE -e 's/^ok .*- (.*[^ ]) +# SKIP ?(.*)$/SKIP unit\/\1: \2/; t out' \
        -e 's/^ok - ([^ ]+).*$/PASS unit\/\1/; t out' \
        -e 's/^not ok - ([^ ]+).*$/FAIL unit\/\1: see build\/results\/unit.log/; t out' \
        -e 'b; :out' -e 'p'
}

part_unit() {
    make -s build/unit-tests || return
    timeout 600 build/unit-tests --timeout 60 --tap=build/results/unit.tap >build/results/unit.log 2>&1
    local status=$?
    tap <build/results/unit.tap >"$RESULTS/unit.txt"
    return $status
}

# The same tests with ASan and UBSan: a report ends the process, so the verdicts say it.
part_sanitize() {
    make -s SANITIZE=1 build/sanitize/unit-tests build/sanitize/minivmm build/sanitize/vfio-emu || return
    timeout 900 build/sanitize/unit-tests --timeout 120 --tap=build/results/sanitize.tap >build/results/sanitize.log 2>&1
    local status=$?
    tap <build/results/sanitize.tap | sed 's/unit/sanitize/' >"$RESULTS/sanitize.txt"
    local kind
    for kind in tiny emulated; do
        MINIVMM=build/sanitize/minivmm RESULT=build/results/sanitize-$kind.txt tests/$kind.sh || status=1
        sed "s/$kind/sanitize-$kind/" build/results/sanitize-$kind.txt >>"$RESULTS/sanitize.txt"
    done
    return $status
}

part_style() {
    tests/style.sh >"$RESULTS/style.txt"
}

part_lint() {
    if make -s lint >build/results/lint.log 2>&1; then
        echo "PASS lint/clang-tidy-cppcheck-format-shellcheck"
    else
        echo "FAIL lint/clang-tidy-cppcheck-format-shellcheck: see build/results/lint.log"
    fi >"$RESULTS/lint.txt"
}

part_clang() {
    if make -s CC=clang >build/results/clang.log 2>&1; then
        echo "PASS build/clang"
    else
        echo "FAIL build/clang: see build/results/clang.log"
    fi >"$RESULTS/clang.txt"
}

part_tiny() {
    make -s all && tests/tiny.sh
}

part_emulated() {
    make -s all emu || return
    local status=0
    tests/emulated.sh || status=1
    tests/emulated/check.sh | tee -a "$RESULTS/emulated.txt"
    return $((PIPESTATUS[0] ? 1 : status))
}

part_cli() {
    make -s all && tests/cli.sh
}

part_host() {
    make -s STATIC=1 all emu && make -s guests && tests/host/check.sh
}

# Runs one part, its output shown as it comes; a broken part becomes a FAIL line.
run() {
    local part=$1 status=0 began=$SECONDS
    echo "== $part"
    rm -f "$RESULTS/$part.txt"
    "part_$part" || status=$?
    touch "$RESULTS/$part.txt"
    if ! grep -qE '^(PASS|FAIL|SKIP) ' "$RESULTS/$part.txt"; then
        echo "FAIL $part: gave no verdict (status $status)" >>"$RESULTS/$part.txt"
    elif [ $status -ne 0 ] && ! grep -q '^FAIL ' "$RESULTS/$part.txt"; then
        echo "FAIL $part: ended with status $status" >>"$RESULTS/$part.txt"
    fi
    grep -E '^(FAIL|SKIP) ' "$RESULTS/$part.txt"
    echo "== $part: $(grep -c '^PASS ' "$RESULTS/$part.txt") passed, $((SECONDS - began)) s"
}

parts=${*:-style unit clang lint tiny emulated cli sanitize host}
for part in $parts; do
    run "$part"
done
count() {
    for part in $parts; do cat "$RESULTS/$part.txt"; done | grep -c "^$1 "
}
failed=$(count FAIL)
passed=$(count PASS)
echo "$passed passed, $failed failed, $(count SKIP) skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
