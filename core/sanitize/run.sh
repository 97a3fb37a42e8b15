#!/usr/bin/env bash
# Runs the core's tests under sanitisers: sanitize/run.sh [address] [thread] [miri], all three if none is named.
#
# They are of the nightly compiler (rustup toolchain install nightly --component rust-src,miri): without it this says so
# and fails. TOOLCHAIN= names another one; FILTER= runs only the tests whose names contain it; THREADS= says how many
# tests run at once. Each sanitiser first has to notice what canary.rs does wrong. A report of any fails the whole.
set -euo pipefail
cd "$(dirname "$0")/.."
toolchain=${TOOLCHAIN:-nightly}
target_dir=${SANITIZE_TARGET_DIR:-$PWD/target/sanitize}

if ! command -v rustup >/dev/null || ! version=$(rustup run "$toolchain" rustc --version 2>/dev/null); then
  echo "sanitize: there is no toolchain '$toolchain' here; rustup toolchain install $toolchain" \
    "--component rust-src,miri gives one" >&2
  exit 1
fi
host=$(rustc -vV | sed -n 's/^host: //p')
echo "with $version"

# has COMPONENT: else says so, and ends.
has() {
  rustup component list --toolchain "$toolchain" --installed | grep -q "^$1" && return
  echo "sanitize: toolchain '$toolchain' lacks $1: rustup component add --toolchain $toolchain $1" >&2
  exit 1
}

# notices FAULT WORDS COMMAND...: the command, which makes the fault, has to fail with these words.
notices() {
  local fault=$1 words=$2 said
  shift 2
  if said=$("$@" "$fault" 2>&1) || [[ $said != *"$words"* ]]; then
    echo "sanitize: '$fault' of canary.rs went unnoticed, so that silence about the core would say nothing: $said" >&2
    exit 1
  fi
  echo "notices: $fault"
}

# canary NAME FLAGS...: canary.rs with the sanitiser NAME.
canary() {
  mkdir -p "$target_dir"
  rustup run "$toolchain" rustc --edition 2021 -g "-Zsanitizer=$1" "${@:2}" sanitize/canary.rs -o "$target_dir/canary-$1"
}

# tests NAME FLAGS...: builds them with the sanitiser NAME, and runs them.
tests() {
  local name=$1
  shift
  echo "sanitizer $name: ${FILTER:-all tests of the core}"
  # The C libraries too. With --target the flags are not for build scripts.
  CARGO_TARGET_DIR=$target_dir/$name RUSTFLAGS="-Zsanitizer=$name" CFLAGS="-fsanitize=$name -fno-omit-frame-pointer" \
    cargo "+$toolchain" test --quiet --locked --package overlaybd --target "$host" --lib --tests "$@" -- \
    ${THREADS:+--test-threads "$THREADS"} ${FILTER:-}
}

address() {
  # What is lost when a test ends is a report too.
  export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1
  canary address
  notices freed "heap-use-after-free" "$target_dir/canary-address"
  notices leak "detected memory leaks" "$target_dir/canary-address"
  tests address
}

thread() {
  has rust-src
  # One test's report is not to hide that of the next.
  export TSAN_OPTIONS=halt_on_error=0:second_deadlock_stack=1
  canary thread -Cunsafe-allow-abi-mismatch=sanitizer
  notices race "data race" "$target_dir/canary-thread"
  # The standard library has to tell of its own locks, channels and fences too.
  tests thread -Zbuild-std
}

miri() {
  has miri
  local sysroot
  sysroot=$(cargo "+$toolchain" miri setup --print-sysroot)
  for fault in "race:Data race" "freed:has been freed" "leak:memory leaked"; do
    notices "${fault%%:*}" "${fault#*:}" rustup run "$toolchain" \
      miri --sysroot "$sysroot" --edition 2021 sanitize/canary.rs --
  done
  # shellcheck source=core/sanitize/miri.sh
  source sanitize/miri.sh
  CARGO_TARGET_DIR=$target_dir/miri MIRIFLAGS="-Zmiri-disable-isolation" \
    cargo "+$toolchain" miri test --locked --package overlaybd --lib -- \
    --test-threads 1 ${FILTER:-"${RUN[@]}" "${LEAVE[@]/#/--skip=}"}
}

for what in "${@:-address thread miri}"; do
  for one in $what; do
    case $one in
      address | thread | miri) "$one" ;;
      *) echo "sanitize: $one: must be address, thread or miri" >&2; exit 2 ;;
    esac
  done
done
