"""What an operator saw of an arm: joint states and commands with the time they came at, and what must hold of them."""
import time

HELD_RAD, MOVED_RAD = 0.1, 2e-2
ARM = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll"]
MACHINE_TOO_BUSY = 75
states, commands = [], []


def until(what, happened, seconds=30):
    deadline = time.time() + seconds
    while not happened():
        assert time.time() < deadline, f"{what} did not happen"
        time.sleep(0.02)


def travel(since):
    """How far the joints of the arm (not its jaw) went since an instant, rad."""
    seen = [position for at, position in list(states) if at >= since]
    return max(max(one[joint] for one in seen) - min(one[joint] for one in seen) for joint in ARM) if seen else 0.0


def held(what):
    """No command comes for a hundred states of the robot, and its servos hold it: under load they creep. The jaw, which is
    slow, may still be on its way to its last goal."""
    until("the last command", lambda: not commands or time.monotonic() - commands[-1][0] > 0.5)
    since, sent, heard = time.monotonic(), len(commands), len(states)
    until("a hundred joint states", lambda: len(states) >= heard + 100)
    moved, sent = travel(since), len(commands) - sent
    assert moved < HELD_RAD and sent == 0, f"{what}: the arm moved {moved:.4f} rad on {sent} commands"
    print(f"{what}: {moved * 1e3:.3f} mrad in {time.monotonic() - since:.1f} s, no command")
