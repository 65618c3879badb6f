//! The scripted expert: knows where the cubes are, plans again at every tick, and opens the jaw
//! again after a missed grasp. It labels the training data and is the upper bound of a policy.

use crate::kinematics::{CLOSED_RAD, OPEN_RAD, Tip, inverse};
use crate::model::JOINTS;
use crate::moving::CubeMotion;
use crate::physics::{Physics, STEP};
use crate::task::{Judge, Outcome};

/// Rows of a plan.
pub const HORIZON: usize = 16;
/// Time between rows, s.
pub const ROW_PERIOD_S: f64 = 0.1;

/// Height at which the arm travels, m.
const HOVER_M: f64 = 0.07;
/// Height at which the jaw closes, m.
const GRASP_M: f64 = 0.012;
/// Height to which the cube is lifted, m.
const LIFT_M: f64 = 0.11;
/// The lifted cube is drawn in to at most this distance, so that the arm is not stretched, m.
const LIFT_RADIUS_M: f64 = 0.20;
/// Step of drawing in, m per tick.
const DRAW_IN_M: f64 = 0.01;
/// Lateral speed of the tip, m/s.
const LATERAL_M_S: f64 = 0.12;
/// Vertical speed of the tip, m/s.
const VERTICAL_M_S: f64 = 0.09;
/// Vertical speed while lifting, m/s.
const LIFT_M_S: f64 = 0.11;
/// Jaw speed, rad/s.
const JAW_RAD_S: f64 = 1.25;
/// The tip aims this far beyond the cube, so that the fixed finger (the outer one) clears the corner
/// of a cube that stands at 45°; closing draws the cube against that finger, m.
const OUTWARD_M: f64 = 0.009;
/// A cube whose centre is this near the tip is held, m.
const HELD_M: f64 = 0.03;

/// What the expert is doing; the numbers are those of the data set's `phase.npy`.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Moving above the cube with an open jaw.
    Approach = 0,
    /// Going down around the cube.
    Descend = 1,
    /// Closing the jaw.
    Close = 2,
    /// Lifting, then holding up.
    Lift = 3,
    /// Opening again after a grasp that missed.
    Recover = 4,
}

/// A plan: where the joints should be commanded over the next 1.5 s.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Plan {
    /// `[HORIZON, JOINTS]` rad, absolute; row 0 is the present command, row k is k·0.1 s later.
    pub rows: [[f64; JOINTS]; HORIZON],
    /// What the first step of the plan does.
    pub phase: Phase,
}

/// The expert's memory between ticks: where the cube was when the jaw began to close.
#[derive(Copy, Clone, Debug, Default)]
pub struct Expert {
    aim_m: Option<[f64; 2]>,
}

impl Expert {
    /// An expert that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans from the commanded and the measured pose, rad, towards the cube centred at `cube_m`.
    /// Call it once per 0.1 s and command row 1 next.
    pub fn plan(&mut self, command_rad: &[f64; JOINTS], measured_rad: &[f64; JOINTS], cube_m: [f64; 3]) -> Plan {
        let seen = [cube_m[0], cube_m[1]];
        let jaw = command_rad[5];
        // Once the jaw closes it hides and moves the cube: keep the aim.
        let kept = match self.aim_m {
            Some(aim) if jaw < 0.3 => aim,
            _ => seen,
        };
        self.aim_m = Some(kept);
        let held = (jaw <= CLOSED_RAD + 0.02).then(|| {
            let tip = Tip::of(measured_rad).position_m();
            let d: [f64; 3] = core::array::from_fn(|i| cube_m[i] - tip[i]);
            (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt() < HELD_M
        });
        let aim = if held == Some(false) { seen } else { kept };
        plan(command_rad, aim, held)
    }
}

fn plan(command_rad: &[f64; JOINTS], aim_m: [f64; 2], mut held: Option<bool>) -> Plan {
    let mut tip = Tip::of(command_rad);
    let mut jaw = command_rad[5];
    let mut rows = [*command_rad; HORIZON];
    let mut first = None;
    for row in &mut rows[1..] {
        let phase = step(&mut tip, &mut jaw, aim_m, held);
        first.get_or_insert(phase);
        if jaw > 0.45 {
            held = None;
        }
        *row = inverse(&tip, jaw);
    }
    Plan { rows, phase: first.unwrap_or(Phase::Approach) }
}

fn towards(value: &mut f64, goal: f64, most: f64) {
    *value += (goal - *value).clamp(-most, most);
}

/// One tick of 0.1 s of the memoryless expert.
fn step(tip: &mut Tip, jaw: &mut f64, aim_m: [f64; 2], held: Option<bool>) -> Phase {
    let yaw = aim_m[1].atan2(aim_m[0]);
    let radius = aim_m[0].hypot(aim_m[1]) + OUTWARD_M;
    let error = (radius - tip.radius_m).hypot(radius * (yaw - tip.yaw_rad));
    let jaw_step = JAW_RAD_S * ROW_PERIOD_S;
    let vertical_step = VERTICAL_M_S * ROW_PERIOD_S;
    let sideways = |tip: &mut Tip| {
        let (across, along) = ((yaw - tip.yaw_rad) * radius, radius - tip.radius_m);
        let share = (LATERAL_M_S * ROW_PERIOD_S / across.hypot(along).max(1e-9)).min(1.0);
        tip.yaw_rad += across * share / radius;
        tip.radius_m += along * share;
        towards(&mut tip.roll_rad, 0.0, 0.12);
        towards(&mut tip.pitch_error_rad, 0.0, 0.05);
    };

    if held == Some(false) && *jaw < 0.2 {
        towards(jaw, OPEN_RAD, jaw_step);
        if tip.height_m < HOVER_M - 0.002 {
            towards(&mut tip.height_m, HOVER_M, vertical_step);
        }
        return Phase::Recover;
    }
    let closed = *jaw <= CLOSED_RAD + 0.02;
    if closed || (*jaw < 0.2 && tip.height_m > 0.03 && held == Some(true)) {
        towards(&mut tip.height_m, LIFT_M, LIFT_M_S * ROW_PERIOD_S);
        if tip.height_m > 0.03 {
            let inner = tip.radius_m.min(LIFT_RADIUS_M);
            towards(&mut tip.radius_m, inner, DRAW_IN_M);
        }
        towards(&mut tip.pitch_error_rad, 0.0, 0.05);
        *jaw = CLOSED_RAD;
        return Phase::Lift;
    }
    let is_low = tip.height_m <= GRASP_M + 0.004;
    if is_low && (error < 0.006 || (*jaw < OPEN_RAD - 0.1 && error < 0.015)) {
        towards(jaw, CLOSED_RAD, jaw_step);
        return Phase::Close;
    }
    // A cone above the cube: inside it, go down while centring.
    if error < 0.008 + 0.25 * (tip.height_m - GRASP_M).max(0.0) && *jaw >= OPEN_RAD - 0.15 {
        sideways(tip);
        if error < 0.012 {
            towards(&mut tip.height_m, GRASP_M, vertical_step);
        }
        towards(jaw, OPEN_RAD, jaw_step);
        return Phase::Descend;
    }
    let is_opening = *jaw < 0.2;
    towards(jaw, OPEN_RAD, jaw_step);
    if tip.height_m >= HOVER_M - 0.02 {
        sideways(tip);
    }
    towards(&mut tip.height_m, HOVER_M, vertical_step);
    if is_opening { Phase::Recover } else { Phase::Approach }
}

/// Control ticks per row while a plan is executed: commands are latched at 100 Hz.
const COMMANDS_PER_ROW: u32 = 10;

/// Executes one row period: the command moves linearly from `from_rad` to `to_rad`, latched at
/// 100 Hz, and stands at `to_rad` when the period ends.
pub fn execute_row(physics: &mut Physics, from_rad: &[f64; JOINTS], to_rad: &[f64; JOINTS]) {
    execute_moving_row(physics, None, from_rad, to_rad);
}

/// As [`execute_row`], with a cube that moves.
fn execute_moving_row(
    physics: &mut Physics,
    mut motion: Option<&mut CubeMotion>,
    from_rad: &[f64; JOINTS],
    to_rad: &[f64; JOINTS],
) {
    let steps = (ROW_PERIOD_S / f64::from(COMMANDS_PER_ROW) / STEP.as_secs_f64()).round() as u32;
    for tick in 0..COMMANDS_PER_ROW {
        let share = f64::from(tick) / f64::from(COMMANDS_PER_ROW);
        physics.set_goal(&core::array::from_fn(|j| from_rad[j] + (to_rad[j] - from_rad[j]) * share));
        for _ in 0..steps {
            if let Some(motion) = &mut motion {
                motion.drive(physics);
            }
            physics.step();
        }
    }
    physics.set_goal(to_rad);
}

/// Lets the expert work for at most `ticks` row periods or until the judge decides.
///
/// `on_tick` sees the world, the command and the plan at each tick before it is executed, and returns
/// what to command one row period later (row 1 of the plan when nothing disturbs it). A cube may move. `extra_ticks`
/// are played after a success.
pub fn rollout(
    physics: &mut Physics,
    mut motion: Option<CubeMotion>,
    target: usize,
    ticks: usize,
    extra_ticks: usize,
    mut on_tick: impl FnMut(&Physics, &[f64; JOINTS], &Plan) -> [f64; JOINTS],
) -> Outcome {
    let mut expert = Expert::new();
    let mut command = physics.goal();
    let mut judge = Judge::new(target, &physics.cubes());
    let start = physics.time();
    let mut left = None;
    for _ in 0..ticks {
        if left == Some(0) {
            break;
        }
        left = left.map(|ticks: usize| ticks - 1);
        let cube = physics.cubes()[judge.target()].position_m;
        let plan = expert.plan(&command, &physics.joints().0, cube);
        let next = on_tick(physics, &command, &plan);
        execute_moving_row(physics, motion.as_mut(), &command, &next);
        command = next;
        match judge.watch(physics.time() - start, &physics.cubes()) {
            None => {}
            Some(Outcome::Success) => left = left.or(Some(extra_ticks)),
            Some(outcome) => return outcome,
        }
    }
    if left.is_some() { Outcome::Success } else { Outcome::Failure }
}
