#!/bin/sh
# Explores the schedules of the models: models.sh quick, models.sh deep, or models.sh NAME [PREEMPTIONS].
set -eu
cd "$(dirname "$0")"

export CARGO_TARGET_DIR="${SIM_TARGET_DIR:-$PWD/target}"
# The versions that the core itself is built with.
cp ../Cargo.lock Cargo.lock
cargo build --quiet --release
"$CARGO_TARGET_DIR/release/models" "$@"
