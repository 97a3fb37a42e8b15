#!/bin/sh
# Fuzzes one target, or all: run.sh [TARGET [RUNS]]; without RUNS as many as `targets` says. Starts from the committed
# corpus; what a run finds in addition goes to target/corpus, inputs that crash to target/crashes.
set -eu
cd "$(dirname "$0")"
bin=$(./build.sh)
# Buffers of the size of a file system are kept and not given back to the kernel after each run.
export GLIBC_TUNABLES=glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=134217728
work=${FUZZ_TARGET_DIR:-$PWD/target}

grep -v '^#' targets | while read -r target max_len usual; do
    [ -z "${1:-}" ] || [ "$1" = "$target" ] || continue
    runs=${2:-$usual} found=$work/corpus/$target crashes=$work/crashes/$target
    mkdir -p "$found" "$crashes"
    echo "fuzzing $target, $runs runs"
    "$bin/$target" -runs="$runs" -max_len="$max_len" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -print_funcs=0 -artifact_prefix="$crashes/" "$found" "corpus/$target"
done
