//! Doctor lines about the robot: binding by name, devices, rights, bandwidth, joint order and dead inputs.

use super::bundle::{PolicyArguments, open_robot, require_fit};
use super::doctor::{Line, Need};
use super::error::CliError;
use clap::Args;
use endplate_hal::RobotSpec;
use endplate_policies::Bundle;
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Arguments of `endplate doctor` about the robot.
#[derive(Args)]
pub struct RobotDoctorArguments {
    /// Robot description; without it, the built-in simulated robot.
    #[arg(long)]
    robot: Option<PathBuf>,
    /// The serial device of an arm, instead of the one described: PATH, or ARM=PATH where there are several.
    #[cfg(feature = "serial")]
    #[arg(long, value_name = "[ARM=]PATH")]
    port: Vec<String>,
    /// The arm stands in its park pose ([poses] park): hold that against what its joints read.
    #[cfg(feature = "serial")]
    #[arg(long)]
    parked: bool,
    /// Finger-print the joint order and look for dead inputs, on the simulated robot: advisory, some seconds.
    #[cfg(feature = "sim")]
    #[arg(long)]
    joint_order: bool,
    /// With `--joint-order`: plant that many exchanges of two joints, and report how many are found.
    #[cfg(feature = "sim")]
    #[arg(long, value_name = "N", requires = "joint_order", default_value_t = 0)]
    planted: usize,
}

/// USB 2.0 carries about this much isochronous video, bytes a second; two cameras on one hub share it.
const USB2_BYTES_S: f64 = 35e6;
/// Bytes on the wire for six servos at 1 Mbaud: see [`bus_time_ms`].
const BYTE_MS: f64 = 0.01;

/// Every line.
pub(super) fn lines(
    arguments: &RobotDoctorArguments,
    bundle: Option<&Bundle>,
    policy: &PolicyArguments,
) -> Result<Vec<Line>, CliError> {
    #[allow(unused_mut)] // without servo buses
    let mut robot = open_robot(arguments.robot.as_ref())?;
    #[cfg(feature = "serial")]
    super::robot_file::set_ports(&mut robot, &arguments.port)?;
    let mut lines = Vec::new();
    if let Some(bundle) = bundle {
        let fit = require_fit(bundle, &robot);
        lines.push(Line {
            what: "binding by name",
            pass: fit.is_ok(),
            need: Need::Required,
            found: match fit {
                Ok(()) => format!("every joint and camera of {} is on {}", bundle.spec().name, robot.name),
                Err(error) => error.to_string(),
            },
            fix: "rename joints or cameras in the robot description, or use the bundle made for this robot",
        });
    }
    let simulated = robot.cameras.iter().all(|camera| camera.driver == "sim");
    lines.push(devices("cameras (/dev/video*)", &["video"], !simulated && !robot.cameras.is_empty(), VIDEO_FIX));
    let has_servos = robot.joints.iter().any(|joint| joint.servo_id.is_some());
    lines.push(devices("serial ports (/dev/tty*)", &["ttyUSB", "ttyACM", "ttyTHS"], has_servos, SERIAL_FIX));
    lines.push(priority_limit());
    lines.extend(camera_bandwidth(&robot));
    lines.extend(bus_budget(&robot));
    #[cfg(feature = "serial")]
    lines.extend(buses(&robot, arguments.parked)?);
    #[cfg(feature = "serial")]
    lines.extend(robot.cameras.iter().filter(|camera| camera.driver != "sim").map(camera_frames));
    #[cfg(feature = "sim")]
    if arguments.joint_order {
        lines.extend(super::joint_order::lines(&robot, policy, arguments.planted)?);
    }
    let _ = policy;
    Ok(lines)
}

const VIDEO_FIX: &str =
    "plug the camera in; where it is there and closed: sudo usermod -aG video $USER, then log in again";
const SERIAL_FIX: &str =
    "plug the adapter in; where it is there and closed: sudo usermod -aG dialout $USER, then log in again";

/// Whether this user may read and write a device.
fn is_open(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    unsafe { libc::access(name.as_ptr(), libc::R_OK | libc::W_OK) == 0 }
}

fn devices(what: &'static str, prefixes: &[&str], is_needed: bool, fix: &'static str) -> Line {
    let mut found: Vec<(String, bool)> = std::fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            prefixes.iter().any(|prefix| name.starts_with(prefix)).then(|| (name, is_open(&entry.path())))
        })
        .collect();
    found.sort();
    let closed = found.iter().filter(|(_, open)| !open).count();
    let list: Vec<_> =
        found.iter().map(|(name, open)| if *open { name.clone() } else { format!("{name} (no permission)") }).collect();
    Line {
        what,
        pass: closed == 0 && !(is_needed && found.is_empty()),
        need: if is_needed { Need::Required } else { Need::Optional },
        found: if list.is_empty() {
            format!("none{}", if is_needed { "" } else { ", and this robot needs none" })
        } else {
            list.join(", ")
        },
        fix,
    }
}

fn priority_limit() -> Line {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_RTPRIO, &raw mut limit) } == 0;
    // SAFETY: has no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    let text = match limit.rlim_cur {
        libc::RLIM_INFINITY => "unlimited".to_owned(),
        value => value.to_string(),
    };
    Line {
        what: "limit of real-time priority",
        pass: is_root || (known && limit.rlim_cur >= 50),
        need: Need::Advised,
        found: if is_root { format!("root (rtprio {text})") } else { format!("rtprio {text}") },
        fix: "write `@realtime - rtprio 90` and `@realtime - memlock unlimited` to /etc/security/limits.d/realtime.conf, \
              add yourself to the group realtime, log in again",
    }
}

/// What uncompressed cameras put on one USB 2.0 bus.
fn camera_bandwidth(robot: &RobotSpec) -> Option<Line> {
    let real: Vec<_> = robot.cameras.iter().filter(|camera| camera.driver != "sim").collect();
    let bytes_s: f64 =
        real.iter().map(|camera| f64::from(camera.width) * f64::from(camera.height) * 2.0 * camera.rate_hz).sum();
    (!real.is_empty()).then(|| Line {
        what: "camera bandwidth",
        pass: bytes_s <= USB2_BYTES_S,
        need: Need::Advised,
        found: format!(
            "{} cameras, {:.1} MB/s uncompressed (YUYV) of about {:.0} MB/s on one USB 2.0 bus",
            real.len(),
            bytes_s / 1e6,
            USB2_BYTES_S / 1e6
        ),
        fix: "choose MJPEG, fewer pixels or frames, or put the cameras on different USB controllers (lsusb -t)",
    })
}

/// Wire time of one period of a Feetech bus at 1 Mbaud: sync read of 8 bytes of each servo, sync write of goals.
fn bus_time_ms(servos: usize) -> f64 {
    let read = (8 + servos) + 14 * servos;
    let write = 8 + 3 * servos;
    (read + write) as f64 * BYTE_MS
}

/// Every servo of every arm, as it is before torque.
#[cfg(feature = "serial")]
fn buses(robot: &RobotSpec, parked: bool) -> Result<Vec<Line>, CliError> {
    let looks = super::before_torque::look(robot, parked)?;
    let line = |look: &super::before_torque::ArmLook| Line {
        what: "servo bus",
        pass: look.problems.is_empty(),
        need: Need::Required,
        found: match look.problems.as_slice() {
            [] => format!("arm {} on {}: {} servos, as described", look.arm, look.port, look.servos),
            problems => format!("arm {} on {}: {}", look.arm, look.port, problems.join("; ")),
        },
        fix: "each problem names its remedy; torque stays off until all are gone",
    };
    Ok(looks.iter().map(line).collect())
}

#[cfg(feature = "serial")]
fn camera_frames(camera: &endplate_hal::CameraSpec) -> Line {
    let found = super::before_torque::look_through(camera);
    Line {
        what: "camera frames",
        pass: found.is_ok(),
        need: Need::Required,
        found: found.unwrap_or_else(|error| error),
        fix: "plug the camera in, name its device (best below /dev/v4l/by-id), and close other programs that use it",
    }
}

fn bus_budget(robot: &RobotSpec) -> Vec<Line> {
    let mut arms: Vec<(&str, usize)> = Vec::new();
    for joint in robot.joints.iter().filter(|joint| joint.servo_id.is_some()) {
        match arms.iter_mut().find(|(arm, _)| *arm == joint.arm) {
            Some((_, servos)) => *servos += 1,
            None => arms.push((&joint.arm, 1)),
        }
    }
    let period_ms = robot.control.period.as_secs_f64() * 1e3;
    arms.into_iter()
        .map(|(arm, servos)| {
            // A USB adapter answers in frames of 1 ms, once for the read.
            let needed_ms = bus_time_ms(servos) + 1.0;
            Line {
                what: "servo bus budget",
                pass: needed_ms <= 0.8 * period_ms,
                need: Need::Advised,
                found: format!(
                    "arm {arm}: {servos} servos need about {needed_ms:.1} ms of a period of {period_ms:.1} ms (1 Mbaud, USB)"
                ),
                fix: "lower control.rate_hz, raise the baud rate, split the arm over two buses; on FTDI set latency_timer to 1",
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use endplate_hal::robots::SO101_SIM;

    fn robot() -> RobotSpec {
        RobotSpec::from_toml_str(SO101_SIM, "robot").unwrap()
    }

    #[test]
    fn a_bus_that_cannot_keep_the_rate_is_named() {
        // The figure of the six-servo bus: 98 and 26 bytes.
        assert!((bus_time_ms(6) - 1.24).abs() < 1e-9);
        let mut robot = robot();
        assert!(bus_budget(&robot).is_empty());
        for (index, joint) in robot.joints.iter_mut().enumerate() {
            joint.servo_id = Some(index as u8 + 1);
        }
        assert!(bus_budget(&robot)[0].pass);
        robot.control.period = core::time::Duration::from_millis(2);
        let line = &bus_budget(&robot)[0];
        assert!(!line.pass && line.found.contains("6 servos need about 2.2 ms"), "{}", line.found);
    }

    #[test]
    fn cameras_that_do_not_fit_one_bus_are_named() {
        let mut robot = robot();
        assert!(camera_bandwidth(&robot).is_none());
        for camera in &mut robot.cameras {
            (camera.driver, camera.width, camera.height) = ("v4l2".into(), 1280, 720);
        }
        let line = camera_bandwidth(&robot).unwrap();
        assert!(!line.pass && line.found.contains("110.6 MB/s"), "{}", line.found);
    }
}
