//! The robot description `robot.toml`: raw serde structs that refuse unknown keys, validated once into [`RobotSpec`].

mod chain;
mod devices;
mod poses;

pub use devices::{
    ArmSpec, BusSpec, CalibrationLoader, CameraDevice, EMULATED, OnSilence, PixelFormat, ServoCalibration, ServoSpec,
};

use crate::joints::{JointVec, MAX_JOINTS};
use crate::kinematics::{Chain, InverseKinematics, InverseRules};
use crate::safety::{JointLimits, SafetyLimits, WorkspaceBox};
use chain::{RawKinematics, validate_chain};
use core::time::Duration;
use devices::{RawBus, RawServo, load_calibration, validate_bus, validate_servo};
pub use poses::PoseSpec;
use poses::{RawPoses, validate_poses};
use serde::Deserialize;

/// Why a robot description is refused. Names the file, the key, the value and what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// Not TOML, an unknown key, a missing key or a value of another type.
    #[error("{file}: {message}")]
    Parse {
        /// The file as the user named it.
        file: String,
        /// The parser's message with line and column.
        message: String,
    },
    /// A value that cannot be.
    #[error("{file}: {key} = {value}: {remedy}")]
    Invalid {
        /// The file as the user named it.
        file: String,
        /// The key, with its table and index.
        key: String,
        /// The value found.
        value: String,
        /// What to write instead.
        remedy: String,
    },
}

/// What sets the pace of the control loop.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pacing {
    /// A timer at the control rate.
    Timer,
    /// A blocking read of the hardware.
    Hardware,
}

/// What an e-stop does once the controlled stop has ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCategory {
    /// Controlled stop, then hold with torque.
    Hold,
    /// Controlled stop, then torque off: only for arms that cannot fall.
    TorqueOff,
}

/// One joint.
#[derive(Clone, Debug, PartialEq)]
pub struct JointSpec {
    /// Name, unique in the robot; policies bind by it.
    pub name: String,
    /// Name of the arm it belongs to.
    pub arm: String,
    /// Limits.
    pub limits: JointLimits,
    /// Largest distance between commanded and measured position, rad; wide for a gripper, which is meant to push.
    pub max_tracking_error_rad: f64,
    /// Bus id of its servo, where it has one.
    pub servo_id: Option<u8>,
    /// Its servo, where it is described.
    pub servo: Option<ServoSpec>,
}

/// One camera.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraSpec {
    /// Name, unique in the robot; policies bind by it.
    pub name: String,
    /// Driver: `sim`, `v4l2`, `replay` or `gstreamer`.
    pub driver: String,
    /// The device behind it.
    pub device: CameraDevice,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Frames a second.
    pub rate_hz: f64,
    /// A frame older than this is not looked at.
    pub max_age: Duration,
    /// From capture to availability, as measured.
    pub lag: Duration,
}

/// The control loop and what bounds it.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlSpec {
    /// Control period.
    pub period: Duration,
    /// What sets the pace.
    pub pacing: Pacing,
    /// What an e-stop ends in.
    pub stop_category: StopCategory,
    /// Capture to command: the deadline whose misses every summary prints.
    pub deadline: Duration,
    /// How long a command may be sent after it was made.
    pub command_valid: Duration,
    /// A joint state older than this stops the arm.
    pub state_max_age: Duration,
    /// Added to `v_max · Δt` before a measured step counts as implausible, rad.
    pub implausible_margin_rad: f64,
    /// A chunk whose capture lies further back than this is refused.
    pub max_chunk_age: Duration,
    /// A controlled stop from any state ends within this time.
    pub stop_time: Duration,
    /// Consecutive failed writes before the fault is latched.
    pub write_failures: u32,
    /// Consecutive refused chunks before the arm holds even though rows are left.
    pub refused_chunks: u32,
    /// What the control thread asks of the machine.
    pub realtime: RealtimeSpec,
}

/// What the control thread asks of the machine: `[control.realtime]`, all of it optional.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RealtimeSpec {
    /// Priority under `SCHED_FIFO`, 1 to 98 (99 is the kernel's own).
    pub priority: u8,
    /// The core the thread is pinned to; best one that `isolcpus` keeps free.
    pub cpu: Option<u16>,
    /// Whether all memory is locked, so that no page of it is ever fetched from disk.
    pub lock_memory: bool,
    /// Whether memory and program text are moved to huge pages before activation, which takes tenths of a second of start.
    pub huge_pages: bool,
}

impl Default for RealtimeSpec {
    /// Priority 80 (above the kernel's interrupt threads at 50), no core, memory locked, pages as they are.
    fn default() -> Self {
        Self { priority: 80, cpu: None, lock_memory: true, huge_pages: false }
    }
}

/// A validated robot description.
#[derive(Clone, Debug)]
pub struct RobotSpec {
    /// Name of the embodiment.
    pub name: String,
    /// Where the description came from, for messages.
    pub source: String,
    /// Arms, in order.
    pub arms: Vec<ArmSpec>,
    /// Joints of all arms, in order.
    pub joints: Vec<JointSpec>,
    /// Cameras.
    pub cameras: Vec<CameraSpec>,
    /// Control.
    pub control: ControlSpec,
    /// Chain to the tool, where described.
    pub chain: Option<Chain>,
    /// What counts as reached when joints are sought for a pose of the tool.
    pub inverse: InverseRules,
    /// The box the tool may not leave, where described.
    pub workspace: Option<WorkspaceBox>,
    /// Poses of the operator's, where described.
    pub poses: PoseSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRobot {
    format: u32,
    name: String,
    control: RawControl,
    arms: Vec<RawArm>,
    #[serde(default)]
    cameras: Vec<RawCamera>,
    kinematics: Option<RawKinematics>,
    workspace: Option<RawWorkspace>,
    #[serde(default)]
    poses: RawPoses,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawControl {
    rate_hz: f64,
    pacing: Pacing,
    stop_category: StopCategory,
    deadline_ms: f64,
    command_valid_ms: f64,
    state_max_age_ms: f64,
    implausible_margin_rad: f64,
    max_chunk_age_ms: f64,
    stop_time_ms: f64,
    write_failures: u32,
    refused_chunks: u32,
    #[serde(default)]
    realtime: RawRealtime,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRealtime {
    priority: Option<u8>,
    cpu: Option<u16>,
    lock_memory: Option<bool>,
    huge_pages: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawArm {
    name: String,
    bus: Option<RawBus>,
    joints: Vec<RawJoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJoint {
    name: String,
    lower_rad: f64,
    upper_rad: f64,
    velocity_rad_s: f64,
    acceleration_rad_s2: f64,
    jerk_rad_s3: f64,
    max_tracking_error_rad: f64,
    servo_id: Option<u8>,
    servo: Option<RawServo>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCamera {
    name: String,
    driver: String,
    #[serde(default)]
    device: CameraDevice,
    width: u32,
    height: u32,
    rate_hz: f64,
    max_age_ms: f64,
    lag_ms: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkspace {
    min_m: [f64; 3],
    max_m: [f64; 3],
}

/// Collects the file's name so that every refusal can give it.
struct Validator<'a> {
    file: &'a str,
}

impl Validator<'_> {
    fn refuse<T>(
        &self,
        key: impl Into<String>,
        value: impl core::fmt::Display,
        remedy: impl Into<String>,
    ) -> Result<T, SpecError> {
        Err(SpecError::Invalid {
            file: self.file.into(),
            key: key.into(),
            value: value.to_string(),
            remedy: remedy.into(),
        })
    }

    fn within(&self, key: &str, value: f64, low: f64, high: f64) -> Result<f64, SpecError> {
        if value.is_finite() && (low..=high).contains(&value) {
            Ok(value)
        } else {
            self.refuse(key, value, format!("write a number from {low} to {high}"))
        }
    }

    fn span(&self, key: &str, millis: f64, low_ms: f64, high_ms: f64) -> Result<Duration, SpecError> {
        self.within(key, millis, low_ms, high_ms).map(|ms| Duration::from_nanos((ms * 1e6).round() as u64))
    }

    fn unique<'n>(&self, key: &str, names: impl Iterator<Item = &'n str>) -> Result<(), SpecError> {
        let mut seen: Vec<&str> = Vec::new();
        for name in names {
            if name.trim().is_empty() {
                return self.refuse(key, format!("{name:?}"), "give it a name");
            }
            if seen.contains(&name) {
                return self.refuse(key, format!("{name:?}"), "each name may stand once: rename one of them");
            }
            seen.push(name);
        }
        Ok(())
    }
}

impl RobotSpec {
    /// Parses and validates a description; `file` is the name to use in messages. Files that it names, a chain or a
    /// calibration, are refused: see [`from_toml_str_with`](Self::from_toml_str_with).
    ///
    /// # Errors
    /// [`SpecError`], naming file, key, value and remedy.
    pub fn from_toml_str(text: &str, file: &str) -> Result<Self, SpecError> {
        Self::from_toml_str_with(text, file, &|_| Err(std::io::Error::other("this description stands in no folder")))
    }

    /// As [`from_toml_str`](Self::from_toml_str), with `read` for the files a description names, by the path it gives.
    ///
    /// # Errors
    /// [`SpecError`], naming file, key, value and remedy.
    pub fn from_toml_str_with(
        text: &str,
        file: &str,
        read: &dyn Fn(&str) -> std::io::Result<String>,
    ) -> Result<Self, SpecError> {
        Self::from_toml_with(text, file, read, &mut |_| Err("this description may name no calibration".to_owned()))
    }

    /// As [`from_toml_str_with`](Self::from_toml_str_with), with `load` for calibration files.
    ///
    /// # Errors
    /// [`SpecError`], naming file, key, value and remedy.
    pub fn from_toml_with(
        text: &str,
        file: &str,
        read: &dyn Fn(&str) -> std::io::Result<String>,
        load: CalibrationLoader<'_>,
    ) -> Result<Self, SpecError> {
        let raw: RawRobot = toml::from_str(text)
            .map_err(|error| SpecError::Parse { file: file.into(), message: error.to_string().trim_end().into() })?;
        let check = Validator { file };
        if raw.format != 1 {
            return check.refuse("format", raw.format, "this version reads format 1");
        }
        let control = validate_control(&check, &raw.control)?;
        let (mut joints, mut arms) = (Vec::new(), Vec::new());
        check.unique("arms.name", raw.arms.iter().map(|arm| arm.name.as_str()))?;
        for arm in &raw.arms {
            let first = joints.len();
            let bus = arm.bus.as_ref().map(|raw| validate_bus(&check, &arm.name, raw)).transpose()?;
            let names: Vec<&str> = arm.joints.iter().map(|joint| joint.name.as_str()).collect();
            let calibration = load_calibration(&check, &arm.name, bus.as_ref(), &names, load)?;
            for (index, joint) in arm.joints.iter().enumerate() {
                let calibration = calibration.get(index);
                joints.push(validate_joint(&check, &arm.name, joint, &control, bus.as_ref(), calibration)?);
            }
            unique_ids(&check, &arm.name, &joints[first..])?;
            arms.push(ArmSpec { name: arm.name.clone(), joints: first..joints.len(), bus });
        }
        check.unique("arms.joints.name", joints.iter().map(|joint: &JointSpec| joint.name.as_str()))?;
        if joints.is_empty() || joints.len() > MAX_JOINTS {
            return check.refuse("arms.joints", joints.len(), format!("describe 1 to {MAX_JOINTS} joints"));
        }
        check.unique("cameras.name", raw.cameras.iter().map(|camera| camera.name.as_str()))?;
        let cameras = raw.cameras.iter().map(|camera| validate_camera(&check, camera)).collect::<Result<_, _>>()?;
        let described = raw.kinematics.as_ref().map(|raw| validate_chain(&check, raw, &joints, read)).transpose()?;
        let (chain, inverse) = described.map_or((None, InverseRules::default()), |(chain, rules)| (Some(chain), rules));
        let workspace =
            raw.workspace.as_ref().map(|raw| validate_workspace(&check, raw, chain.is_some())).transpose()?;
        let poses = validate_poses(&check, &raw.poses, &joints)?;
        Ok(Self {
            name: raw.name,
            source: file.into(),
            arms,
            joints,
            cameras,
            control,
            chain,
            inverse,
            workspace,
            poses,
        })
    }

    /// The limits the safety filter guards.
    pub fn safety_limits(&self) -> SafetyLimits {
        SafetyLimits {
            period: self.control.period,
            command_valid: self.control.command_valid,
            joints: self.joints.iter().map(|joint| joint.limits).collect(),
            workspace: self.workspace.zip(self.chain.clone()),
        }
    }

    /// The solver of the described chain inside the joints' limits; `None` without a chain.
    pub fn inverse_kinematics(&self) -> Option<InverseKinematics> {
        let limit = |of: fn(&JointLimits) -> f64| JointVec::from_fn(self.joints.len(), |j| of(&self.joints[j].limits));
        let (lower_rad, upper_rad) = (limit(|limits| limits.lower_rad), limit(|limits| limits.upper_rad));
        self.chain.clone().map(|chain| InverseKinematics::new(chain, lower_rad, upper_rad, self.inverse))
    }

    /// Whether a joint could have moved from one measured position to the other in `span`: the joint that could not,
    /// if any.
    ///
    /// # Real-time
    /// Does not allocate or block.
    pub fn implausible_step(&self, from: &JointVec, to: &JointVec, span: Duration) -> Option<usize> {
        let seconds = span.as_secs_f64();
        self.joints.iter().zip(from.iter().zip(to.iter())).position(|(joint, (from, to))| {
            (to - from).abs() > joint.limits.velocity_rad_s * seconds + self.control.implausible_margin_rad
        })
    }
}

fn validate_control(check: &Validator, raw: &RawControl) -> Result<ControlSpec, SpecError> {
    let rate = check.within("control.rate_hz", raw.rate_hz, 1.0, 2000.0)?;
    let period_ms = 1e3 / rate;
    if raw.write_failures == 0 {
        return check.refuse("control.write_failures", 0, "write at least 1");
    }
    if raw.refused_chunks == 0 {
        return check.refuse("control.refused_chunks", 0, "write at least 1");
    }
    Ok(ControlSpec {
        period: Duration::from_nanos((1e9 / rate).round() as u64),
        pacing: raw.pacing,
        stop_category: raw.stop_category,
        deadline: check.span("control.deadline_ms", raw.deadline_ms, 0.1, 60_000.0)?,
        command_valid: check.span("control.command_valid_ms", raw.command_valid_ms, period_ms, 1_000.0)?,
        state_max_age: check.span("control.state_max_age_ms", raw.state_max_age_ms, period_ms, 1_000.0)?,
        implausible_margin_rad: check.within("control.implausible_margin_rad", raw.implausible_margin_rad, 0.0, 3.2)?,
        max_chunk_age: check.span("control.max_chunk_age_ms", raw.max_chunk_age_ms, period_ms, 60_000.0)?,
        stop_time: check.span("control.stop_time_ms", raw.stop_time_ms, period_ms, 10_000.0)?,
        write_failures: raw.write_failures,
        refused_chunks: raw.refused_chunks,
        realtime: validate_realtime(check, &raw.realtime)?,
    })
}

fn validate_realtime(check: &Validator, raw: &RawRealtime) -> Result<RealtimeSpec, SpecError> {
    let default = RealtimeSpec::default();
    let priority = raw.priority.unwrap_or(default.priority);
    if !(1..=98).contains(&priority) {
        return check.refuse("control.realtime.priority", priority, "write 1 to 98; 99 is the kernel's own");
    }
    if let Some(cpu) = raw.cpu.filter(|cpu| *cpu >= 1024) {
        return check.refuse("control.realtime.cpu", cpu, "write the number of a core, 0 to 1023");
    }
    Ok(RealtimeSpec {
        priority,
        cpu: raw.cpu,
        lock_memory: raw.lock_memory.unwrap_or(default.lock_memory),
        huge_pages: raw.huge_pages.unwrap_or(default.huge_pages),
    })
}

/// One id, one servo, on each bus.
fn unique_ids(check: &Validator, arm: &str, joints: &[JointSpec]) -> Result<(), SpecError> {
    for (index, joint) in joints.iter().enumerate() {
        let twin = joint.servo_id.and_then(|id| joints[..index].iter().find(|other| other.servo_id == Some(id)));
        if let (Some(twin), Some(id)) = (twin, joint.servo_id) {
            let remedy = format!("joint {} of arm {arm} has this id already: give each servo its own", twin.name);
            return check.refuse(format!("arms.joints[{}].servo_id", joint.name), id, remedy);
        }
    }
    Ok(())
}

fn validate_joint(
    check: &Validator,
    arm: &str,
    raw: &RawJoint,
    control: &ControlSpec,
    bus: Option<&BusSpec>,
    calibration: Option<&ServoCalibration>,
) -> Result<JointSpec, SpecError> {
    let key = |name: &str| format!("arms.joints[{}].{name}", raw.name);
    let limits = JointLimits {
        lower_rad: check.within(&key("lower_rad"), raw.lower_rad, -100.0, 100.0)?,
        upper_rad: check.within(&key("upper_rad"), raw.upper_rad, -100.0, 100.0)?,
        velocity_rad_s: check.within(&key("velocity_rad_s"), raw.velocity_rad_s, 1e-3, 100.0)?,
        acceleration_rad_s2: check.within(&key("acceleration_rad_s2"), raw.acceleration_rad_s2, 1e-2, 1e4)?,
        jerk_rad_s3: check.within(&key("jerk_rad_s3"), raw.jerk_rad_s3, 1e-1, 1e6)?,
    };
    if limits.lower_rad >= limits.upper_rad {
        return check.refuse(key("upper_rad"), raw.upper_rad, format!("must lie above lower_rad = {}", raw.lower_rad));
    }
    // From full speed and full opposite acceleration: null the acceleration, ramp, brake, ramp.
    let ramp = limits.acceleration_rad_s2 / limits.jerk_rad_s3;
    let speed = limits.velocity_rad_s + limits.acceleration_rad_s2 * ramp / 2.0;
    let longest = Duration::from_secs_f64(2.0 * ramp + speed / limits.acceleration_rad_s2) + 3 * control.period;
    if longest > control.stop_time {
        return check.refuse(
            "control.stop_time_ms",
            control.stop_time.as_millis(),
            format!(
                "joint {} may need {} ms to stop under its limits: allow that, or raise its acceleration or jerk",
                raw.name,
                longest.as_millis()
            ),
        );
    }
    let max_tracking_error_rad = check.within(&key("max_tracking_error_rad"), raw.max_tracking_error_rad, 1e-3, 6.3)?;
    if raw.servo_id.is_some_and(|id| id > 252) {
        return check.refuse(key("servo_id"), raw.servo_id.unwrap_or(0), "write 0 to 252");
    }
    let servo = match (raw.servo_id, &raw.servo) {
        (Some(id), Some(servo)) => {
            let limits_rad = (limits.lower_rad, limits.upper_rad);
            Some(validate_servo(check, &raw.name, id, bus, servo, calibration, limits_rad)?)
        }
        (None, Some(_)) => return check.refuse(key("servo_id"), "missing", "write the id of the servo described"),
        (_, None) if bus.is_some() => {
            let remedy = "the arm has a bus: describe servo_id and servo = { zero_count, min_count, max_count }, or servo = {} and the arm's calibration";
            return check.refuse(key("servo"), "missing", remedy);
        }
        (_, None) => None,
    };
    Ok(JointSpec {
        name: raw.name.clone(),
        arm: arm.into(),
        limits,
        max_tracking_error_rad,
        servo_id: raw.servo_id,
        servo,
    })
}

fn validate_camera(check: &Validator, raw: &RawCamera) -> Result<CameraSpec, SpecError> {
    let key = |name: &str| format!("cameras[{}].{name}", raw.name);
    for (name, pixels) in [("width", raw.width), ("height", raw.height)] {
        if !(8..=8192).contains(&pixels) {
            return check.refuse(key(name), pixels, "write 8 to 8192 pixels");
        }
    }
    const DRIVERS: [&str; 4] = ["sim", "v4l2", "replay", "gstreamer"];
    if !DRIVERS.contains(&raw.driver.as_str()) {
        return check.refuse(key("driver"), format!("{:?}", raw.driver), format!("write one of {DRIVERS:?}"));
    }
    let missing = match raw.driver.as_str() {
        "v4l2" => raw.device.path.is_none().then_some(("device.path", "name the camera, such as \"/dev/video0\"")),
        "replay" => raw.device.folder.is_none().then_some(("device.folder", "name a folder of images")),
        _ => None,
    };
    if let Some((name, remedy)) = missing {
        return check.refuse(key(name), "missing", remedy);
    }
    let rate_hz = check.within(&key("rate_hz"), raw.rate_hz, 0.1, 1000.0)?;
    Ok(CameraSpec {
        name: raw.name.clone(),
        driver: raw.driver.clone(),
        device: raw.device.clone(),
        width: raw.width,
        height: raw.height,
        rate_hz,
        max_age: check.span(&key("max_age_ms"), raw.max_age_ms, raw.lag_ms.max(0.0) + 1e3 / rate_hz, 10_000.0)?,
        lag: check.span(&key("lag_ms"), raw.lag_ms, 0.0, 1_000.0)?,
    })
}

fn validate_workspace(check: &Validator, raw: &RawWorkspace, has_chain: bool) -> Result<WorkspaceBox, SpecError> {
    if !has_chain {
        return check.refuse(
            "workspace",
            "given",
            "a workspace needs [kinematics]: describe the chain or remove the workspace",
        );
    }
    for axis in 0..3 {
        if raw.min_m[axis].is_nan() || raw.max_m[axis].is_nan() || raw.min_m[axis] >= raw.max_m[axis] {
            return check.refuse(
                "workspace.max_m",
                format!("{:?}", raw.max_m),
                format!("each must lie above min_m = {:?}", raw.min_m),
            );
        }
    }
    Ok(WorkspaceBox { min_m: raw.min_m, max_m: raw.max_m })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinematics::Kinematics;
    use crate::robots::SO101_SIM;

    fn error(text: &str) -> String {
        RobotSpec::from_toml_str(text, "robot.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_description_that_comes_with_the_crate_is_valid() {
        let robot = RobotSpec::from_toml_str(SO101_SIM, "so101_sim").unwrap();
        assert_eq!(robot.joints.len(), 6);
        assert_eq!(robot.control.period, Duration::from_millis(10));
        let chain = robot.chain.as_ref().unwrap();
        let tool = chain.forward(&[0.0; 6]).unwrap().translation;
        assert!((tool.z - (0.06 + 0.06 + 0.12 + 0.135 + 0.05 + 0.08)).abs() < 1e-9);
    }

    #[test]
    fn a_refusal_names_file_key_value_and_remedy() {
        let unknown = error(&SO101_SIM.replace("rate_hz = 100.0", "rate_hz = 100.0\nspeed = 3"));
        assert!(unknown.contains("robot.toml") && unknown.contains("speed"), "{unknown}");
        let rate = error(&SO101_SIM.replace("rate_hz = 100.0", "rate_hz = 0.0"));
        assert!(rate.contains("control.rate_hz = 0") && rate.contains("from 1 to 2000"), "{rate}");
        let name = error(&SO101_SIM.replace("name = \"wrist_flex\"", "name = \"wrist_roll\""));
        assert!(name.contains("wrist_roll") && name.contains("rename"), "{name}");
        let link = error(&SO101_SIM.replace("joint = \"wrist_flex\"", "joint = \"wrist\""));
        assert!(link.contains("\"wrist\"") && link.contains("shoulder_pan"), "{link}");
        let stop = error(&SO101_SIM.replace("stop_time_ms = ", "stop_time_ms = 20.0 #"));
        assert!(stop.contains("stop_time_ms") && stop.contains("may need"), "{stop}");
    }

    #[test]
    fn what_is_asked_of_the_machine_is_optional_and_checked() {
        let with = |table: &str| SO101_SIM.replace("[[arms]]", &format!("[control.realtime]\n{table}\n[[arms]]"));
        let robot = RobotSpec::from_toml_str(SO101_SIM, "so101_sim").unwrap();
        assert_eq!(robot.control.realtime, RealtimeSpec::default());
        let robot =
            RobotSpec::from_toml_str(&with("priority = 60\ncpu = 1\nlock_memory = false\nhuge_pages = true"), "robot")
                .unwrap();
        assert_eq!(
            robot.control.realtime,
            RealtimeSpec { priority: 60, cpu: Some(1), lock_memory: false, huge_pages: true }
        );
        let top = error(&with("priority = 99"));
        assert!(top.contains("control.realtime.priority = 99") && top.contains("1 to 98"), "{top}");
        assert!(error(&with("core = 1")).contains("core"));
    }

    #[test]
    fn every_description_that_comes_with_the_crate_is_valid_and_its_limits_lie_inside_its_counts() {
        use crate::robots::{KOCH, SO100, SO101, SO101_EMULATED, VIPERX};
        for (name, text, joints) in [
            ("so100", SO100, 6),
            ("so101", SO101, 6),
            ("koch", KOCH, 6),
            ("viperx", VIPERX, 7),
            ("", SO101_EMULATED, 6),
        ] {
            let robot = RobotSpec::from_toml_str(text, name).unwrap();
            assert_eq!(robot.joints.len(), joints);
            assert!(robot.arms[0].bus.is_some() && robot.joints.iter().all(|joint| joint.servo.is_some()));
            assert!(name.is_empty() || robot.name == name);
        }
    }

    #[test]
    fn what_is_wrong_with_a_bus_or_a_servo_is_named() {
        use crate::robots::SO101_EMULATED;
        let twin = error(&SO101_EMULATED.replace("servo_id = 4", "servo_id = 3"));
        assert!(twin.contains("wrist_flex") && twin.contains("elbow_flex of arm arm has this id"), "{twin}");
        let watchdog = error(&SO101_EMULATED.replace("max_load = 1.1", "max_load = 1.1\nwatchdog_ms = 100.0"));
        assert!(watchdog.contains("no bus watchdog"), "{watchdog}");
        let narrow = error(&SO101_EMULATED.replace("max_count = 4095", "max_count = 3000"));
        assert!(narrow.contains("shoulder_pan") && narrow.contains("calibrate"), "{narrow}");
        let baud = error(&SO101_EMULATED.replace("port = ", "baud = 9600\nport = "));
        assert!(baud.contains("9600") && baud.contains("115200"), "{baud}");
        let driver = error(&SO101_SIM.replace("driver = \"sim\"", "driver = \"v4l2\""));
        assert!(driver.contains("device.path"), "{driver}");
    }

    #[test]
    fn a_step_no_joint_can_make_is_named() {
        let robot = RobotSpec::from_toml_str(SO101_SIM, "so101_sim").unwrap();
        let from = JointVec::zeros(6);
        let mut to = from;
        to[3] = 0.02;
        assert_eq!(robot.implausible_step(&from, &to, Duration::from_millis(10)), None);
        to[3] = 1.5;
        assert_eq!(robot.implausible_step(&from, &to, Duration::from_millis(10)), Some(3));
    }
}
