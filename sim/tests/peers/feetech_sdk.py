"""The vendor's Feetech SDK (PyPI feetech-servo-sdk) against a bus: python feetech_sdk.py PATH"""
import sys
import time

import scservo_sdk as scs

port = scs.PortHandler(sys.argv[1])
assert port.openPort() and port.setBaudRate(1_000_000)
packet = scs.PacketHandler(0)


# The published time-out is too short for any answer; LeRobot adds 50 ms, and a busy machine needs more.
def set_timeout(self, length):
    self.packet_start_time = self.getCurrentTime()
    self.packet_timeout = self.tx_time_per_byte * length + self.tx_time_per_byte * 3 + 1000


port.setPacketTimeout = set_timeout.__get__(port, scs.PortHandler)

for servo in range(1, 7):
    model, result, error = packet.ping(port, servo)
    assert (model, result, error) == (777, 0, 0), (servo, model, result, error)
assert packet.ping(port, 7)[1] != 0, "nobody is number 7"
assert packet.read2ByteTxRx(port, 1, 56) == (2048, 0, 0)
assert packet.read1ByteTxRx(port, 1, 62)[0] == 121
# A goal alone switches the torque on.
assert packet.write2ByteTxRx(port, 1, 42, 2300) == (0, 0)
assert packet.read1ByteTxRx(port, 1, 40)[0] == 1
time.sleep(0.4)
assert abs(packet.read2ByteTxRx(port, 1, 56)[0] - 2300) <= 1
# Held back until the action, which a single servo confirms.
packet.regWriteTxRx(port, 1, 42, 2, [2100 & 255, 2100 >> 8])
assert packet.read1ByteTxRx(port, 1, 64)[0] == 1
packet.action(port, 1)
time.sleep(0.4)
assert abs(packet.read2ByteTxRx(port, 1, 56)[0] - 2100) <= 1
# A locked EEPROM answers OK and keeps its value.
assert packet.write1ByteTxRx(port, 1, 13, 60) == (0, 0)
assert packet.read1ByteTxRx(port, 1, 13)[0] == 70
packet.write1ByteTxRx(port, 1, 55, 0)
packet.write1ByteTxRx(port, 1, 13, 60)
assert packet.read1ByteTxRx(port, 1, 13)[0] == 60

write = scs.GroupSyncWrite(port, packet, 42, 2)
for servo in range(1, 7):
    goal = 2000 + 20 * servo
    assert write.addParam(servo, [goal & 255, goal >> 8])
assert write.txPacket() == 0
time.sleep(0.5)
read = scs.GroupSyncRead(port, packet, 56, 8)
for servo in range(1, 7):
    assert read.addParam(servo)
assert read.txRxPacket() == 0
for servo in range(1, 7):
    assert abs(read.getData(servo, 56, 2) - (2000 + 20 * servo)) <= 1
times = []
for _ in range(200):
    start = time.perf_counter()
    assert read.txRxPacket() == 0
    times.append(time.perf_counter() - start)
times.sort()
print(f"feetech-servo-sdk: all as expected; sync read 6 x 8 bytes p50 {times[100] * 1e3:.2f} p99 {times[197] * 1e3:.2f} ms")
