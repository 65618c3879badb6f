"""A control loop as LeRobot's rollout strategies run it, with LeRobot's own sleep, for `endplate bench jitter --peer`.

Reads one JSON line a window, {"seconds": S, "rate_hz": R}, and answers one: how late each period began against the
period the loop itself planned (start of the one before plus the interval), in µs, and how many periods it made. The
robot and the policy are left out, so this is the best such a loop can do.
"""

import json
import sys
import time

try:
    import lerobot
    from lerobot.utils.robot_utils import precise_sleep
except ImportError as error:
    print(json.dumps({"error": f"{error}: install lerobot 0.6.1"}), flush=True)
    sys.exit(1)

print(json.dumps({"version": f"lerobot {lerobot.__version__}, Python {sys.version.split()[0]}"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    interval = 1.0 / request["rate_hz"]
    late = []
    begin = last = None
    while begin is None or time.perf_counter() - begin < request["seconds"]:
        loop_start = time.perf_counter()
        if last is None:
            begin = loop_start
        else:
            late.append(max(0.0, (loop_start - last - interval) * 1e6))
        last = loop_start
        elapsed = time.perf_counter() - loop_start
        if (remaining := interval - elapsed) > 0:
            precise_sleep(remaining)
    print(json.dumps({"late_us": late, "elapsed_s": time.perf_counter() - begin}), flush=True)
