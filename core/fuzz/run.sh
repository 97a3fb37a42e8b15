#!/bin/sh
# Fuzzes one target, or all: run.sh [TARGET [RUNS]]. Starts from the committed corpus; what a run finds in addition
# goes to target/corpus, inputs that crash to target/crashes. The stable compiler is enough.
set -eu
cd "$(dirname "$0")"
runs=${2:-20000}

export CARGO_TARGET_DIR="${FUZZ_TARGET_DIR:-$PWD/target}"
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
host=$(rustc -vV | sed -n 's/^host: //p')
# The versions that the core itself is built with; cargo adds libfuzzer-sys to them.
cp ../Cargo.lock Cargo.lock
# With --target the flags are for the targets alone, not for build scripts.
cargo build --quiet --release --target "$host" --bins

for target in ${1:-$(sed -n '/^\[\[bin\]\]/{n;s/^name = "\(.*\)"/\1/p;}' Cargo.toml)}; do
    found=$CARGO_TARGET_DIR/corpus/$target
    crashes=$CARGO_TARGET_DIR/crashes/$target
    mkdir -p "$found" "$crashes"
    echo "fuzzing $target, $runs runs"
    "$CARGO_TARGET_DIR/$host/release/$target" -runs="$runs" -max_len=65536 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -print_funcs=0 -artifact_prefix="$crashes/" "$found" "corpus/$target"
done
