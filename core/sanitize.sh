#!/usr/bin/env bash
# Runs the core's tests under sanitisers: sanitize.sh [address] [thread] [miri], all three if none is named.
#
# They are of the nightly compiler (rustup toolchain install nightly --component rust-src,miri): without it this says so
# and fails. TOOLCHAIN= names another one; FILTER= runs only the tests whose names contain it.
set -euo pipefail
cd "$(dirname "$0")"
toolchain=${TOOLCHAIN:-nightly}
target_dir=${SANITIZE_TARGET_DIR:-$PWD/target/sanitize}
# For miri, which is slow and calls no C: what is unsafe or atomic, and the parsers of numbers.
pure=(blob::switch lsmt::segment lsmt::index serve::tcmu::scsi serve::tcmu::tests::requests zfile::table)

if ! command -v rustup >/dev/null || ! version=$(rustup run "$toolchain" rustc --version 2>/dev/null); then
  echo "sanitize: there is no toolchain '$toolchain' here; rustup toolchain install $toolchain" \
    "--component rust-src,miri gives one" >&2
  exit 1
fi
host=$(rustc -vV | sed -n 's/^host: //p')
echo "with $version"

# lacks COMPONENT: says so.
lacks() {
  rustup component list --toolchain "$toolchain" --installed | grep -q "^$1" && return 1
  echo "sanitize: toolchain '$toolchain' lacks $1: rustup component add --toolchain $toolchain $1" >&2
}

# tests NAME FLAGS...: builds them with the sanitiser NAME, and runs them.
tests() {
  local name=$1
  shift
  echo "sanitizer $name: ${FILTER:-all tests of the core}"
  # The C libraries too. With --target the flags are not for build scripts.
  CARGO_TARGET_DIR=$target_dir/$name RUSTFLAGS="-Zsanitizer=$name" CFLAGS="-fsanitize=$name -fno-omit-frame-pointer" \
    cargo "+$toolchain" test --quiet --locked --package overlaybd --target "$host" --lib --tests "$@" -- ${FILTER:-}
}

for what in "${@:-address thread miri}"; do
  for one in $what; do
    case $one in
      address) ASAN_OPTIONS=detect_stack_use_after_return=1 tests address ;;
      # The standard library has to tell of its own locks and channels too.
      thread) ! lacks rust-src || exit 1; tests thread -Zbuild-std ;;
      miri)
        ! lacks miri || exit 1
        CARGO_TARGET_DIR=$target_dir/miri MIRIFLAGS="-Zmiri-disable-isolation" \
          cargo "+$toolchain" miri test --quiet --locked --package overlaybd --lib -- ${FILTER:-"${pure[@]}"}
        ;;
      *) echo "sanitize: $one: must be address, thread or miri" >&2; exit 2 ;;
    esac
  done
done
