//! `endplate calibrate`: what relates raw numbers to physical ones.

mod board;
mod camera;
mod file;
mod hand_eye;
mod joints;
#[cfg(feature = "sim")]
mod latency;
#[cfg(feature = "mcap")]
mod thresholds;
mod units;

use super::error::CliError;
use clap::Subcommand;

/// The calibrations.
#[derive(Subcommand)]
pub enum CalibrateCommand {
    /// Draw a ChArUco board or a chessboard to print.
    Board(board::DrawArguments),
    /// A camera's focal lengths, centre and distortion, from images of a board, live or in files, or from its corners.
    Camera(camera::CameraArguments),
    /// Check a LeRobot calibration file against a robot, and write it in its canonical form.
    File(file::FileArguments),
    /// Where a camera sits on the gripper, from poses of the gripper and of a board it sees.
    HandEye(hand_eye::HandEyeArguments),
    /// An arm's joints by hand, torque off: middle, range, direction, written to the servos and read back.
    Joints(joints::JointArguments),
    /// How late motion follows commands, and frames follow motion.
    #[cfg(feature = "sim")]
    Latency(latency::LatencyArguments),
    /// When a policy may answer with less work: fitted from recordings, written into a copy of its bundle.
    #[cfg(feature = "mcap")]
    Thresholds(thresholds::ThresholdArguments),
    /// Counts to LeRobot's units and back: JSON lines on standard input and output.
    Units,
}

/// Runs one of them.
pub fn calibrate(command: &CalibrateCommand) -> Result<(), CliError> {
    match command {
        CalibrateCommand::Board(arguments) => board::draw(arguments),
        CalibrateCommand::Camera(arguments) => camera::fit(arguments),
        CalibrateCommand::File(arguments) => file::check(arguments),
        CalibrateCommand::HandEye(arguments) => hand_eye::solve(arguments),
        CalibrateCommand::Joints(arguments) => joints::calibrate(arguments),
        #[cfg(feature = "sim")]
        CalibrateCommand::Latency(arguments) => latency::measure(arguments),
        #[cfg(feature = "mcap")]
        CalibrateCommand::Thresholds(arguments) => thresholds::fit(arguments),
        CalibrateCommand::Units => units::convert(),
    }
}
