#!/bin/sh
# Runs simulated worlds: run.sh FROM-TO, or run.sh SEED for one with its whole trace. run.sh --check looks at the code.
set -eu
cd "$(dirname "$0")"

export CARGO_TARGET_DIR="${SIM_TARGET_DIR:-$PWD/target}"
# The versions that the core itself is built with.
cp ../Cargo.lock Cargo.lock
if [ "${1:-}" = --check ]; then
    cargo fmt --check
    exec cargo clippy --quiet --release -- -D warnings
fi
cargo build --quiet --release
"$CARGO_TARGET_DIR/release/sim" "$@"
