#!/usr/bin/env bash
# The emulators against the vendors' drivers, and our driver against an emulator nobody here wrote, through
# pseudo-terminals. Needs Python 3 and PyPI. LeRobot's bus as well where LEROBOT_PYTHON names a Python that has
# lerobot[feetech] (it pulls PyTorch).
set -euo pipefail
cd "$(dirname "$0")/../../.."
python3 -m venv target/servo_peers
target/servo_peers/bin/python -m pip install --quiet --disable-pip-version-check \
  feetech-servo-sdk==1.0.0 dynamixel-sdk==4.1.0 feetech-cli==0.1.8 rustypot==1.4.2 pyserial==3.5
python=$PWD/target/servo_peers/bin/python
path=$(mktemp)
server=
trap 'kill $server 2>/dev/null || true; rm -f "$path"' EXIT
await() { until [ -s "$path" ]; do sleep 0.1; done; }
# against MAKE COMMAND…: a fresh emulated bus, and the command with its path. Time-outs of tens of milliseconds,
# as LeRobot has, a busy machine may miss: five tries, of which one has to pass from end to end.
against() {
  make=$1
  shift
  for _ in 1 2 3 4 5; do
    : >"$path"
    target/release/endplate sim --bus "$make" --seconds 120 >"$path" 2>/dev/null &
    server=$!
    await
    if "$@" "$(cat "$path")"; then
      kill $server
      return
    fi
    kill $server
  done
  return 1
}

cargo build --release
against feetech "$python" sim/tests/peers/feetech_sdk.py
against feetech "$python" sim/tests/peers/rustypot_bus.py feetech
if [ -n "${LEROBOT_PYTHON:-}" ]; then
  against feetech "$LEROBOT_PYTHON" sim/tests/peers/lerobot_bus.py
  against feetech "$LEROBOT_PYTHON" sim/tests/peers/lerobot_calibration.py target/release/endplate
else
  echo "LeRobot FeetechMotorsBus: SKIPPED, LEROBOT_PYTHON is not set"
fi
against dynamixel "$python" sim/tests/peers/robotis_sdk.py
against dynamixel "$python" sim/tests/peers/rustypot_bus.py dynamixel

: >"$path"
"$python" sim/tests/peers/feetech_cli_bus.py >"$path" &
server=$!
await
# By way of the workspace, so that no heavy crate is built again with other features.
ENDPLATE_PEER_BUS=$(cat "$path") cargo test --release --workspace --test bus -- --ignored --nocapture
