#!/bin/sh
# Builds every fuzz target and prints the directory of their binaries. The stable compiler is enough. With FUZZ_COMPARES=no
# without what tells the fuzzer of comparisons, which finds magic numbers and takes half of the time.
set -eu
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${FUZZ_TARGET_DIR:-$PWD/target}"
compares=-Cllvm-args=-sanitizer-coverage-trace-compares
if [ "${FUZZ_COMPARES:-}" = no ]; then
    compares='' CARGO_TARGET_DIR=$CARGO_TARGET_DIR/blind
fi
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table $compares"
host=$(rustc -vV | sed -n 's/^host: //p')
# The versions that the core itself is built with; cargo adds libfuzzer-sys to them.
cp ../Cargo.lock Cargo.lock
# With --target the flags are for the targets alone, not for build scripts.
cargo build --quiet --release --target "$host" --bins >&2
echo "$CARGO_TARGET_DIR/$host/release"
