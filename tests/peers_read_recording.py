"""Third-party check: `mcap` and `mcap-ros2-support` from PyPI read a recording of `endplate run --record`.

    python tests/peers_read_recording.py run.mcap run.json
"""

import json
import sys

from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

recording, report = sys.argv[1], json.load(open(sys.argv[2], encoding="utf-8"))
counts: dict[str, int] = {}
joints = None
with open(recording, "rb") as file:
    reader = make_reader(file, decoder_factories=[DecoderFactory()])
    metadata = {record.name: record.metadata for record in reader.iter_metadata()}
    for schema, channel, message in reader.iter_messages():
        counts[channel.topic] = counts.get(channel.topic, 0) + 1
        if channel.message_encoding == "cdr":
            decoded = DecoderFactory().decoder_for("cdr", schema)(message.data)
            stamp = decoded.header.stamp.sec * 10**9 + decoded.header.stamp.nanosec
            assert stamp == message.publish_time, (channel.topic, stamp, message.publish_time)
            if schema.name == "sensor_msgs/msg/JointState":
                joints = joints or list(decoded.name)
                assert list(decoded.name) == joints and len(decoded.position) == len(joints)
            else:
                assert (decoded.encoding, decoded.step) == ("rgb8", decoded.width * 3)
                assert len(decoded.data) == decoded.height * decoded.step
        else:
            json.loads(message.data)
assert counts["/joint_commands"] == report["control"]["commands"], counts
assert metadata["endplate"]["bundle_digest"] == report["bundle_digest"]
assert metadata["endplate"]["control_periods_dropped"] == "0"
print(f"read by third-party mcap: {counts}, joints {joints}")
