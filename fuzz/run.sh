#!/usr/bin/env bash
# Runs every fuzz target for SECONDS (60 unless given), one after the other, and fails at the first crash. Targets may be
# named after it. Works with the stable toolchain: what is fuzzed is safe Rust, so its own checks do instead of sanitizers.
# What a run finds goes to fuzz/target/, never into the seeds.
set -euo pipefail
cd "$(dirname "$0")"

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz

# What is fuzzed is built from what was committed.
cargo metadata --locked --format-version 1 >/dev/null

seconds="${1:-60}"
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo fuzz list)
found=target/fuzzed

echo "-- the build, some minutes the first time"
cargo fuzz build -s none

for target in "${targets[@]}"; do
  printf '\n-- %s, %s s\n' "$target" "$seconds"
  mkdir -p "$found/$target/corpus" "$found/$target/artifacts"
  # The first directory takes what is new; the second is only read.
  cargo fuzz run -s none "$target" "$found/$target/corpus" "corpus/$target" -- \
    -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="$found/$target/artifacts/" 2>&1 | grep -v -e '^#' -e '^INFO:' -e ' # Uses: '
done
