//! The recording itself: scenes, disturbances, starts in trouble, worker threads.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};

use super::{
    CAMERAS, CameraMeta, DatasetError, DatasetWriter, Frame, IMAGE_SIZE, Meta, SCENES_PER_SEED, Studio, TRAINING_SEEDS,
};
use crate::expert::{HORIZON, Plan, ROW_PERIOD_S, rollout};
use crate::kinematics::{OPEN_RAD, Tip, inverse};
use crate::look::Look;
use crate::model::{CUBES, JOINT_NAMES, JOINTS, Model};
use crate::moving::CubeMotion;
use crate::physics::Physics;
use crate::rng::Random;
use crate::scene::Scene;
use crate::task::{self, COLOURS, Outcome, PHRASES};

const STREAM_EPISODE: u64 = 31;
/// Longest episode kept, ticks.
const MAX_TICKS: usize = 110;
/// Ticks recorded after success was decided, which itself takes 1 s of holding.
const EXTRA_TICKS: usize = 1;
/// Share of episodes that start in a recovery pose.
const RECOVERY_SHARE: f64 = 0.3;

/// What to record.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct RecordOptions {
    /// Number of scenes; three episodes each. At most 10,000.
    pub scenes: u32,
    /// Which scenes; below 100, so that no evaluation seed is touched.
    pub seed: u64,
    /// Worker threads; 0 counts as 1.
    pub threads: usize,
    /// Random light, colours and camera displacement per episode.
    pub randomise: bool,
    /// Share of the episodes whose named cube moves, 0 to 1; see [`CubeMotion`].
    pub moving_share: f64,
}

/// Who drives while the expert's plans are recorded as labels: a policy, in DAgger (Ross, Gordon and Bagnell, AISTATS
/// 2011). The expert takes over for [`TAKEOVER_TICKS`] when the arm has stood still for [`STUCK_TICKS`], so that an
/// episode in trouble shows the way out instead of the same frame again and again.
pub trait Pilot {
    /// An episode begins.
    fn begin(&mut self, instruction: &str);

    /// Rows to command next, rad, 0.1 s apart, for what the cameras see (`[2, 96, 96, 3]` u8) and the joints measure;
    /// none for an answer that was refused.
    fn drive(&mut self, images: &[u8], state_rad: &[f32; JOINTS]) -> Vec<[f64; JOINTS]>;
}

/// Makes a pilot for each worker thread.
pub type MakePilot<'a> = &'a (dyn Fn() -> Box<dyn Pilot> + Sync);

/// Ticks without motion after which the expert takes over.
pub const STUCK_TICKS: usize = 10;
/// Ticks for which it drives then.
pub const TAKEOVER_TICKS: usize = 12;
/// Motion of any joint below this is none, rad.
const STILL_RAD: f64 = 0.01;

/// How far the recording is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Scenes written.
    pub scenes_done: u32,
    /// Scenes to write.
    pub scenes: u32,
    /// Frames written.
    pub frames: u64,
}

/// What was recorded.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Frames written.
    pub frames: u64,
    /// Episodes written.
    pub episodes: u32,
    /// Episodes the expert failed in, which were left out.
    pub dropped: u32,
}

/// Records `options.scenes` scenes into the directory `out`; `progress` is called after each. With a `pilot` that one
/// drives, the expert labels, and failed episodes are kept.
///
/// Speed on a 2-core machine: about 170 frames a second while another job keeps one core busy.
///
/// # Errors
/// [`DatasetError`]; the directory is then incomplete and has no `meta.json` of this recording.
pub fn record(
    out: &Path,
    options: RecordOptions,
    pilot: Option<MakePilot>,
    mut progress: impl FnMut(Progress),
) -> Result<Summary, DatasetError> {
    let RecordOptions { scenes, seed, .. } = options;
    if seed >= TRAINING_SEEDS / SCENES_PER_SEED || u64::from(scenes) > SCENES_PER_SEED {
        return Err(DatasetError::SeedRange { seed, scenes });
    }
    let model = Arc::new(Model::so101_like()?);
    let mut writer = DatasetWriter::create(out)?;
    let (mut episodes, mut done) = (0, 0);
    let next = AtomicU32::new(0);
    let stop = AtomicBool::new(false);

    std::thread::scope(|scope| -> Result<(), DatasetError> {
        // The channel bounds memory: a scene is about 6 MB.
        let (send, receive) = mpsc::sync_channel::<(u32, Vec<Vec<Frame>>)>(2);
        for _ in 0..options.threads.max(1) {
            let (send, model, next, stop) = (send.clone(), &model, &next, &stop);
            let mut studio = Studio::new(Arc::clone(model))?;
            scope.spawn(move || {
                let mut pilot = pilot.map(|make| make());
                loop {
                    let scene = next.fetch_add(1, Ordering::Relaxed);
                    if scene >= scenes || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let frames = record_scene(model, &mut studio, &options, pilot.as_deref_mut(), scene);
                    if send.send((scene, frames)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        // Threads finish in any order; the file has the scenes' order.
        let mut early = BTreeMap::new();
        let written = (|| {
            while done < scenes {
                let (scene, frames) = receive.recv().map_err(|_| DatasetError::Worker { scenes_done: done })?;
                early.insert(scene, frames);
                while let Some(kept) = early.remove(&done) {
                    for frames in kept {
                        for mut frame in frames {
                            frame.episode = episodes;
                            writer.push(&frame)?;
                        }
                        episodes += 1;
                    }
                    done += 1;
                    progress(Progress { scenes_done: done, scenes, frames: writer.frames() });
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        drop(receive);
        written
    })?;

    let tried = scenes * CUBES as u32;
    let summary = Summary { frames: writer.frames(), episodes, dropped: tried - episodes };
    let strings = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    writer.finish(&Meta {
        format: 1,
        robot: "so101_sim".to_owned(),
        seed,
        scenes,
        episodes,
        frames: summary.frames,
        horizon: HORIZON,
        row_period_s: ROW_PERIOD_S,
        joints: strings(&JOINT_NAMES),
        cameras: CAMERAS
            .map(|name| CameraMeta { name: name.to_owned(), width: IMAGE_SIZE, height: IMAGE_SIZE })
            .to_vec(),
        colours: strings(&COLOURS),
        phrases: strings(&PHRASES),
        expert_success: [episodes, tried],
        randomised: options.randomise,
    })?;
    Ok(summary)
}

/// The episodes of one scene that are kept, by colour: the successful ones, or all of a pilot.
fn record_scene(
    model: &Arc<Model>,
    studio: &mut Studio,
    options: &RecordOptions,
    mut pilot: Option<&mut (dyn Pilot + 'static)>,
    scene: u32,
) -> Vec<Vec<Frame>> {
    let scene_seed = options.seed * SCENES_PER_SEED + u64::from(scene);
    let mut kept = Vec::new();
    for target in 0..CUBES {
        let mut random = Random::new(scene_seed, STREAM_EPISODE + ((target as u64) << 8));
        let mut placed = Scene::sample_variant(scene_seed, target as u64);
        if random.uniform(0.0, 1.0) < RECOVERY_SHARE {
            placed.start_rad = recovery_start(&mut random, &placed, target);
        }
        let look = if options.randomise {
            Look::sample(scene_seed * CUBES as u64 + target as u64, model.cameras.len())
        } else {
            Look::default()
        };
        let noise = random.uniform(0.0, 1.2);
        let moves = options.moving_share > 0.0 && random.uniform(0.0, 1.0) < options.moving_share;
        let motion = moves.then(|| CubeMotion::sample(scene_seed, target));
        let mut seat = pilot.as_deref_mut().map(|pilot| Seat::new(pilot, &task::instruction(scene_seed, target)));
        let mut physics = Physics::new(Arc::clone(model), &placed);
        let mut smooth = [0.0; JOINTS];
        let mut frames = Vec::new();
        let outcome = rollout(&mut physics, motion, target, MAX_TICKS, EXTRA_TICKS, |physics, command, plan| {
            let mut frame = studio.frame(physics, &look, command, plan, target);
            frame.scene = scene;
            let next = match &mut seat {
                Some(seat) => seat.next(&frame, command, plan),
                None => disturbed(&plan.rows[1], &mut smooth, noise, &mut random),
            };
            frames.push(frame);
            next
        });
        if outcome == Outcome::Success || seat.is_some() {
            kept.push(frames);
        }
    }
    kept
}

/// A pilot at work on one episode.
struct Seat<'a> {
    pilot: &'a mut (dyn Pilot + 'static),
    rows: VecDeque<[f64; JOINTS]>,
    /// Where the arm stood when it last moved, and for how many ticks it has stood there.
    stood_at: [f32; JOINTS],
    still: usize,
    takeover: usize,
}

impl<'a> Seat<'a> {
    /// Rows of an answer that are executed before the next is asked for.
    const EXECUTED: usize = 8;

    fn new(pilot: &'a mut (dyn Pilot + 'static), instruction: &str) -> Self {
        pilot.begin(instruction);
        Self { pilot, rows: VecDeque::new(), stood_at: [f32::INFINITY; JOINTS], still: 0, takeover: 0 }
    }

    fn next(&mut self, frame: &Frame, command: &[f64; JOINTS], plan: &Plan) -> [f64; JOINTS] {
        let moved = frame.state.iter().zip(&self.stood_at).any(|(a, b)| f64::from((a - b).abs()) > STILL_RAD);
        self.still = if moved { 0 } else { self.still + 1 };
        if moved {
            self.stood_at = frame.state;
        }
        if self.still >= STUCK_TICKS {
            (self.still, self.takeover) = (0, TAKEOVER_TICKS);
            self.rows.clear();
        }
        if self.takeover > 0 {
            self.takeover -= 1;
            return plan.rows[1];
        }
        if self.rows.is_empty() {
            // Row 0 is where the arm is.
            self.rows =
                self.pilot.drive(&frame.images, &frame.state).into_iter().skip(1).take(Self::EXECUTED).collect();
        }
        self.rows.pop_front().unwrap_or(*command)
    }
}

/// What is executed instead of `row`: smooth noise that fades near the table and spares the jaw.
fn disturbed(row: &[f64; JOINTS], smooth: &mut [f64; JOINTS], noise: f64, random: &mut Random) -> [f64; JOINTS] {
    const SCALE_RAD: [f64; JOINTS] = [0.02, 0.02, 0.02, 0.02, 0.03, 0.0];
    let fade = ((Tip::of(row).height_m - 0.022) / 0.05).clamp(0.0, 1.0);
    core::array::from_fn(|j| {
        smooth[j] = 0.8 * smooth[j] + 0.6 * random.normal() * noise;
        row[j] + fade * smooth[j] * SCALE_RAD[j]
    })
}

/// A start in trouble: a closed or half-closed jaw above the cube, the hand low beside it, or
/// the open hand above another cube.
fn recovery_start(random: &mut Random, scene: &Scene, target: usize) -> [f64; JOINTS] {
    let kind = random.uniform(0.0, 1.0);
    loop {
        let direction = random.uniform(0.0, core::f64::consts::TAU);
        let (cube, distance, height_m, jaw) = if kind < 0.4 {
            let (distance, height) = (random.uniform(0.0, 0.02), random.uniform(0.055, 0.095));
            (target, distance, height, random.uniform(-0.5, 0.35))
        } else if kind < 0.75 {
            let (distance, height) = (random.uniform(0.045, 0.07), random.uniform(0.024, 0.06));
            let jaw = if random.uniform(0.0, 1.0) < 0.5 { OPEN_RAD } else { random.uniform(-0.5, 0.5) };
            (target, distance, height, jaw)
        } else {
            let other = (target + 1 + random.index(CUBES - 1)) % CUBES;
            (other, random.uniform(0.0, 0.015), random.uniform(0.055, 0.08), OPEN_RAD)
        };
        let x = scene.cubes[cube].x_m + distance * direction.cos();
        let y = scene.cubes[cube].y_m + distance * direction.sin();
        let nearest =
            scene.cubes.iter().map(|place| (place.x_m - x).hypot(place.y_m - y)).fold(f64::INFINITY, f64::min);
        let (yaw_rad, radius_m) = (y.atan2(x), x.hypot(y));
        // A low hand must not start inside a cube.
        if (height_m < 0.055 && nearest < 0.045) || !(0.11..0.245).contains(&radius_m) {
            continue;
        }
        let tip = Tip {
            yaw_rad,
            radius_m,
            height_m,
            roll_rad: random.uniform(-0.15, 0.15),
            pitch_error_rad: random.uniform(-0.03, 0.03),
        };
        return inverse(&tip, jaw);
    }
}
