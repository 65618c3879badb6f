"""ROBOTIS's SDK (PyPI dynamixel-sdk) against a bus: python robotis_sdk.py PATH"""
import sys
import time

import dynamixel_sdk as dxl

port = dxl.PortHandler(sys.argv[1])
assert port.openPort() and port.setBaudRate(1_000_000)
packet = dxl.PacketHandler(2.0)


# The published time-out is 34 ms and some, which a busy machine may miss.
def set_timeout(self, length):
    self.packet_start_time = self.getCurrentTime()
    self.packet_timeout = self.tx_time_per_byte * length + 1000


port.setPacketTimeout = set_timeout.__get__(port, dxl.PortHandler)

found, result = packet.broadcastPing(port)
assert result == 0 and {servo: tuple(what) for servo, what in found.items()} == {n: (1200, 46) for n in range(1, 7)}
assert packet.ping(port, 1) == (1200, 0, 0)
assert packet.read4ByteTxRx(port, 1, 132) == (2048, 0, 0)
# EEPROM with torque on: access error; a goal beyond the limit: limit error.
assert packet.write1ByteTxRx(port, 1, 64, 1) == (0, 0)
assert packet.write1ByteTxRx(port, 1, 11, 4) == (0, 7)
assert packet.write4ByteTxRx(port, 1, 116, 5000) == (0, 6)
# Stuffed bytes both ways.
assert packet.write1ByteTxRx(port, 1, 64, 0) == (0, 0)
assert packet.write4ByteTxRx(port, 1, 20, 0x00FDFFFF) == (0, 0)
assert packet.read4ByteTxRx(port, 1, 20) == (0x00FDFFFF, 0, 0)
assert packet.write4ByteTxRx(port, 1, 20, 0) == (0, 0)

write = dxl.GroupSyncWrite(port, packet, 116, 4)
for servo in range(1, 7):
    assert packet.write1ByteTxRx(port, servo, 64, 1) == (0, 0)
    assert write.addParam(servo, list((2000 + 20 * servo).to_bytes(4, "little")))
assert write.txPacket() == 0
time.sleep(0.4)
read = dxl.GroupSyncRead(port, packet, 132, 4)
for servo in range(1, 7):
    assert read.addParam(servo)
assert read.txRxPacket() == 0
for servo in range(1, 7):
    assert abs(read.getData(servo, 132, 4) - (2000 + 20 * servo)) <= 1
bulk = dxl.GroupBulkRead(port, packet)
assert bulk.addParam(1, 144, 2) and bulk.addParam(2, 146, 1)
assert bulk.txRxPacket() == 0
assert (bulk.getData(1, 144, 2), bulk.getData(2, 146, 1)) == (50, 30)
many = dxl.GroupBulkWrite(port, packet)
assert many.addParam(1, 116, 4, list((2100).to_bytes(4, "little"))) and many.addParam(2, 65, 1, [1])
assert many.txPacket() == 0
assert packet.read1ByteTxRx(port, 2, 65) == (1, 0, 0)
time.sleep(0.3)
assert abs(packet.read4ByteTxRx(port, 1, 132)[0] - 2100) <= 1
# The bus watchdog trips in silence and refuses goals until it is cleared.
assert packet.write1ByteTxRx(port, 1, 98, 3) == (0, 0)
time.sleep(0.5)
assert packet.read1ByteTxRx(port, 1, 98)[0] == 255
assert packet.write4ByteTxRx(port, 1, 116, 2050)[1] == 7
assert packet.write1ByteTxRx(port, 1, 98, 0) == (0, 0)
assert packet.write4ByteTxRx(port, 1, 116, 2050) == (0, 0)
print("dynamixel-sdk: all as expected")
