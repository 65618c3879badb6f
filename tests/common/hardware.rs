//! What tests of the binary on emulated hardware share: a robot description in a folder of its own, and the binary.
#![allow(dead_code)]

use endplate_hal::robots;
use endplate_hal::servo::{Master, Protocol, SerialPort, ServoRegisters, Timing, feetech};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// A folder with a robot description of an arm on `ports`, cameras that replay black images, and calibration files.
pub struct Robot {
    pub folder: tempfile::TempDir,
}

/// Black 96×96 images as NumPy writes them.
fn black() -> Vec<u8> {
    let header = format!("{:<117}\n", "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 96, 96, 3), }");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend([0; 96 * 96 * 3]);
    bytes
}

pub const POSES: &str = "
[poses]
speed = 0.5
[poses.home]
shoulder_pan = 0.2
shoulder_lift = -0.3
elbow_flex = 0.6
wrist_flex = 0.1
wrist_roll = 0.0
gripper = 0.1
[poses.park]
shoulder_pan = 0.0
shoulder_lift = 0.0
elbow_flex = 0.0
wrist_flex = 0.0
wrist_roll = 0.0
gripper = 0.0
";

impl Robot {
    /// One arm on `port`, described as the emulated one with a busy machine in mind; `edit` changes the text.
    pub fn new(port: &Path, edit: impl FnOnce(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("black.npy"), black()).unwrap();
        let cameras = format!("driver = \"replay\"\ndevice = {{ folder = {:?} }}", folder.path().join("black.npy"));
        let text = robots::SO101_EMULATED
            .replace("port = \"emulated\"", &format!("port = {port:?}"))
            .replace("reply_timeout_ms = 15.0", "reply_timeout_ms = 30.0")
            .replace("state_max_age_ms = 50.0", "state_max_age_ms = 400.0")
            .replace("command_valid_ms = 50.0", "command_valid_ms = 400.0")
            .replace("driver = \"sim\"", &cameras);
        std::fs::write(folder.path().join("robot.toml"), edit(text + POSES)).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn file(&self) -> String {
        self.path("robot.toml").display().to_string()
    }

    /// The binary with these arguments and this robot.
    pub fn endplate(&self, arguments: &[&str]) -> Output {
        let robot = self.file();
        let mut command = Command::new(env!("CARGO_BIN_EXE_endplate"));
        command.args(arguments).args(["--robot", &robot]).output().unwrap()
    }

    /// A run that is refused; what it says.
    pub fn refused(&self, more: &[&str]) -> String {
        let arguments = [&["run", "--instruction", "pick up the red cube", "--seconds", "1"], more].concat();
        let output = self.endplate(&arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        text
    }
}

/// Text of a description whose counts come from a calibration file.
pub fn with_calibration(text: &str, file: &str) -> String {
    text.replace(
        "servo = { model = \"sts3215\", zero_count = 2048.0, min_count = 0, max_count = 4095 }",
        "servo = { model = \"sts3215\" }",
    )
    .replace("on_silence =", &format!("calibration = \"{file}\"\non_silence ="))
}

pub const NAMES: [&str; 6] = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"];

/// LeRobot's file for six servos that hold these.
pub fn lerobot(held: &[ServoRegisters]) -> String {
    let entries: Vec<String> = held
        .iter()
        .zip(NAMES)
        .enumerate()
        .map(|(index, (held, name))| {
            format!(
                "\"{name}\": {{\"id\": {}, \"drive_mode\": 0, \"homing_offset\": {}, \"range_min\": {}, \"range_max\": {}}}",
                index + 1,
                held.homing_offset,
                held.range_min,
                held.range_max
            )
        })
        .collect();
    format!("{{{}}}", entries.join(", "))
}

/// Calibrations that tell the six servos apart; the joints at rest read the middle of their ranges.
pub fn distinct(base: i32) -> Vec<ServoRegisters> {
    (0..6)
        .map(|index| {
            let offset = base + 7 * index;
            ServoRegisters { homing_offset: offset, range_min: 2048 - offset - 1900, range_max: 2048 - offset + 1900 }
        })
        .collect()
}

pub fn master(port: &Path) -> Master<SerialPort> {
    let timing = Timing { baud: 1_000_000, reply: Duration::from_millis(200), retries: 2 };
    Master::new(Protocol::Feetech, SerialPort::open(port, timing.baud).unwrap(), timing)
}

/// Makes the servos hold these.
pub fn plant(port: &Path, held: &[ServoRegisters]) {
    let mut master = master(port);
    for (id, held) in (1..).zip(held) {
        master.write_calibration(id, held).unwrap();
    }
}

/// Whether no servo has its torque on.
pub fn is_limp(port: &Path) -> bool {
    let mut master = master(port);
    (1..=6).all(|id| master.read(id, feetech::register::TORQUE) == Ok(0))
}
