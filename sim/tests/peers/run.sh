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
serve() { # MAKE FILE: an emulated bus; its path appears in FILE
  target/release/endplate sim --bus "$1" --seconds 120 >"$2" &
  server=$!
  until [ -s "$2" ]; do sleep 0.1; done
}
cargo build --release
path=$(mktemp)
trap 'kill $server 2>/dev/null || true; rm -f "$path"' EXIT

serve feetech "$path"
"$python" sim/tests/peers/feetech_sdk.py "$(cat "$path")"
"$python" sim/tests/peers/rustypot_bus.py feetech "$(cat "$path")"
kill $server; : >"$path"
if [ -n "${LEROBOT_PYTHON:-}" ]; then
  serve feetech "$path"
  "$LEROBOT_PYTHON" sim/tests/peers/lerobot_bus.py "$(cat "$path")"
  kill $server; : >"$path"
else
  echo "LeRobot FeetechMotorsBus: SKIPPED, LEROBOT_PYTHON is not set"
fi
serve dynamixel "$path"
"$python" sim/tests/peers/robotis_sdk.py "$(cat "$path")"
"$python" sim/tests/peers/rustypot_bus.py dynamixel "$(cat "$path")"
kill $server; : >"$path"

"$python" sim/tests/peers/feetech_cli_bus.py >"$path" &
server=$!
until [ -s "$path" ]; do sleep 0.1; done
# By way of the workspace, so that no heavy crate is built again with other features.
ENDPLATE_PEER_BUS=$(cat "$path") cargo test --release --workspace --test bus -- --ignored --nocapture
