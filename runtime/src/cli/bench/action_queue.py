"""LeRobot's own ActionQueue under a trace of latencies: which rows reach the motors.

Usage: python action_queue.py TRACE HORIZON ASK_AT TICKS   (needs lerobot 0.6.1; prints one JSON list of rows)

A chunk asked for when the arm has executed n rows holds the numbers n, n+1, ..., so what the motors get should read
0, 1, 2, ... The loop around the queue does what LeRobot's rollout does: one row popped a tick, a chunk asked for when
the queue is short, and on arrival `merge` with the delay that the measured latency says. TRACE has one latency a line,
in ticks.
"""

import importlib.metadata
import json
import logging
import math
import sys

import torch
from lerobot.policies.rtc.action_queue import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig

logging.disable(logging.WARNING)
trace, horizon, ask_at, ticks = sys.argv[1], *map(int, sys.argv[2:5])
with open(trace, encoding="utf-8") as file:
    latencies = iter([float(line) for line in file])
queue = ActionQueue(RTCConfig(enabled=True, execution_horizon=10))
sent, due = [], None
for tick in range(ticks):
    if due is not None and tick >= due[0]:
        _, chunk, delay, index = due
        queue.merge(chunk, chunk, delay, index)
        due = None
    if due is None and queue.qsize() <= ask_at:
        latency = next(latencies)
        executed = sent[-1] + 1 if sent else 0
        chunk = torch.arange(executed, executed + horizon, dtype=torch.float64).unsqueeze(1)
        due = (tick + latency, chunk, math.ceil(latency), queue.get_action_index())
    row = queue.get()
    if row is not None:
        sent.append(int(row.item()))
print(json.dumps({"version": importlib.metadata.version("lerobot"), "rows": sent}))
