"""rclpy (ROS 2 Jazzy) with other types on two topics of ours, until standard input ends.

usage: foreign_rclpy.py
"""
import os
import sys

import rclpy
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

rclpy.init()
foreign = rclpy.create_node("foreign")
foreign.create_publisher(CompressedImage, "/front/image_raw", 10)
foreign.create_subscription(String, "/position_controller/commands", print, 10)
sys.stdin.read()
os._exit(0)
