#!/bin/sh
# Exported bundles against LeRobot itself, and openpi and OpenVLA bundles against what CHECKPOINTS.md says: makes a Python environment of its own, builds `endplate`, compares.
#
#   policies/export/tests/third_party.sh [FOLDER OF THE ENVIRONMENT]     (default out/lerobot; about 8 GB)
#
# PYTHON names a Python of at least 3.12 (default python3.12), which LeRobot needs.
set -eu
root=$(cd "$(dirname "$0")/../../.." && pwd)
environment=${1:-$root/out/lerobot}
if [ ! -x "$environment/bin/python" ]; then
    "${PYTHON:-python3.12}" -m venv "$environment"
fi
"$environment/bin/pip" install --quiet "$root/policies/export[lerobot,openvla,test]"
cargo build --release --manifest-path "$root/Cargo.toml"
ENDPLATE="$root/target/release/endplate" ENDPLATE_REQUIRE=1 \
    "$environment/bin/python" -m pytest -q -s "$root/policies/export/tests/test_lerobot.py" "$root/policies/export/tests/test_checkpoints.py"
