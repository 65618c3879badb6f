"""An emulator nobody here wrote, feetech-cli's simulated bus (PyPI), on a pseudo-terminal: prints its path and serves."""
import os
import pty
import tty

from feetech_cli.simulator import SimulatedBus, SimulatedServo

master, slave = pty.openpty()
tty.setraw(master)
tty.setraw(slave)
print(os.ttyname(slave), flush=True)
bus = SimulatedBus([SimulatedServo(servo) for servo in range(1, 7)])
pending = b""
while True:
    pending += os.read(master, 4096)
    while len(pending) >= 6 and len(pending) >= 4 + pending[3]:
        length = 4 + pending[3]
        bus.write(pending[:length])
        pending = pending[length:]
        answer = bus.read(100_000)
        if answer:
            os.write(master, answer)
