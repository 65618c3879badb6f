#!/usr/bin/env bash
# The `r2r` backend against ROS 2 Jazzy (rclpy on rmw_fastrtps) as PyPI has it, built into a target folder of its own:
#
#     ros2/tests/r2r/run.sh transport  # two nodes of ours in one process, then a node of ours and rclpy
#     ros2/tests/r2r/run.sh            # that, and rclpy as the operator of `endplate run --transport r2r` with
#                                      # `endplate sim --transport r2r` as its robot: builds all of endplate
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"
export CARGO_TARGET_DIR=$root/target/r2r
if [ "${1:-}" = transport ]; then
  packages="-p endplate-ros2 --no-default-features --features endplate-ros2/r2r"
  tests="--lib --test r2r_node --test peers"
else
  packages="-p endplate-ros2 -p endplate-runtime --features endplate-ros2/r2r,endplate-runtime/r2r"
  tests="--lib --test r2r_node --test peers --test ros2_stack"
fi
cargo build --release $packages --example echo_node
cargo test --release $packages $tests --no-run

# A process has one rcl context, so one domain: one test after the other, in a network with nothing but a loopback where this
# machine allows that. Only what is tested gets Python's library, not cargo.
runner=CARGO_TARGET_$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')_RUNNER
export "$runner=env LD_PRELOAD=$libpython ROS_LOG_DIR=$CARGO_TARGET_DIR/ros-log"
# Without it Fast DDS has no room for an image.
export FASTRTPS_DEFAULT_PROFILES_FILE=$root/ros2/launch/fastdds_images.xml
export FASTDDS_DEFAULT_PROFILES_FILE=$FASTRTPS_DEFAULT_PROFILES_FILE
alone() {
  if unshare -rn true 2>/dev/null; then unshare -rn sh -c 'ip link set lo up && exec "$@"' sh "$@"; else "$@"; fi
}
alone cargo test --release --no-fail-fast $packages $tests -- --include-ignored --test-threads 1 --nocapture r2r
