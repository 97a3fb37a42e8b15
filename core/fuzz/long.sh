#!/bin/bash
# Fuzzes all targets in turn, a minute each, until every one has had GOAL executions: long.sh [GOAL [TARGET...]].
# Slices add up in $FUZZ_LOGS (target/logs), one line each: executions, seconds, edges covered, new inputs, crashes;
# so a run may be stopped and started again, and `long.sh table` tells what has been done.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${FUZZ_TARGET_DIR:-$here/target}
logs=${FUZZ_LOGS:-$work/logs}
mkdir -p "$logs"
# Buffers of the size of a file system are kept and not given back to the kernel after each run.
export GLIBC_TUNABLES=glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=134217728

runs() { awk '{ n += $1 } END { print n + 0 }' "$logs/$1.slices" 2>/dev/null || echo 0; }

# Not those that were only slow, as all are on a machine with much else to do.
faults() { find "$1" -type f ! -name 'slow-unit-*' | wc -l; }

if [ "${1:-}" = table ]; then
    echo "| target | executions | per second | edges | inputs found | crashes |"
    echo "| --- | ---: | ---: | ---: | ---: | ---: |"
    for slices in "$logs"/*.slices; do
        awk -v name="$(basename "$slices" .slices)" '{ n += $1; s += $2; edges = $3 > edges ? $3 : edges; new += $4; bad += $5 }
            END { printf "| %s | %d | %d | %d | %d | %d |\n", name, n, n / (s ? s : 1), edges, new, bad }' "$slices"
    done
    exit
fi

goal=${1:-10000000}
shift || true
built=${FUZZ_BIN:-$(FUZZ_COMPARES=${FUZZ_COMPARES:-no} "$here/build.sh")}
# A copy, so that a build beside this one does not change what runs.
bin=$work/long
mkdir -p "$bin"
while read -r target max_len _; do
    [ $# -eq 0 ] || [[ " $* " = *" $target "* ]] || continue
    [ "$built" = "$bin" ] || { cp "$built/$target" "$bin/$target.new" && mv "$bin/$target.new" "$bin/$target"; }
    targets+=("$target $max_len")
done < <(grep -v '^#' "$here/targets")

left=1
while [ "$left" -gt 0 ]; do
    left=0
    for each in "${targets[@]}"; do
        read -r target max_len <<<"$each"
        done_so_far=$(runs "$target")
        [ "$done_so_far" -lt "$goal" ] || continue
        left=$((left + 1))
        found=$work/corpus/$target crashes=$work/crashes/$target
        mkdir -p "$found" "$crashes"
        before=$(faults "$crashes") log=$logs/$target.log
        ok=0
        nice -n 19 "$bin/$target" -max_total_time="${SLICE_S:-60}" -runs=$((goal - done_so_far)) -max_len="$max_len" \
            -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 -print_funcs=0 -artifact_prefix="$crashes/" \
            "$found" "$here/corpus/$target" >"$log.now" 2>&1 || ok=$?
        # One that was interrupted says so by this status.
        case $ok in 0 | 72) ok=0 ;; *) ok=1 ;; esac
        cat "$log.now" >>"$log"
        after=$(faults "$crashes")
        # A crash ends a slice before its statistics, except for those that libFuzzer prints on its way out.
        awk -v bad=$((after - before > 0 ? after - before : ok)) '
            /^#[0-9]+/ { n = substr($1, 2); for (i = 2; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
            /^Done / { s = $5 }
            /number_of_executed_units/ { n = $2 }
            /average_exec_per_sec/ { rate = $2 }
            /new_units_added/ { new = $2 }
            END { if (!s && rate) s = n / rate; print n + 0, int(s + 0.5), edges + 0, new + 0, bad }' "$log.now" \
            >>"$logs/$target.slices"
    done
done
