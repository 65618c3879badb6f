//! Records the expert at work: the data a demonstration policy is trained on.
//!
//! Every scene appears three times, once per named colour, from different start poses, so that
//! only the words tell the episodes apart. The expert executes its plan with smooth noise while
//! the label is its clean plan, and a share of the episodes starts where a policy gets into trouble. The same
//! options give the same bytes, whatever the number of threads.

mod record;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use record::{MakePilot, Pilot, Progress, RecordOptions, STUCK_TICKS, Summary, TAKEOVER_TICKS, record};

use crate::expert::{HORIZON, Plan};
use crate::look::Look;
use crate::model::{CUBES, JOINTS, Model, ModelError};
use crate::npy::{Dtype, NpyWriter};
use crate::physics::Physics;
use crate::raster::{BodyPose, Renderer, View};

/// Cameras of the data set, in order.
pub const CAMERAS: [&str; 2] = ["front", "wrist"];
/// Width and height of its images, pixels.
pub const IMAGE_SIZE: u32 = 96;
/// Seeds of training scenes stay below this; evaluation uses those from here on.
pub const TRAINING_SEEDS: u64 = 1_000_000;
/// Scene seeds of data-set seed s are s·10,000 and following.
const SCENES_PER_SEED: u64 = 10_000;

const IMAGE_BYTES: usize = (IMAGE_SIZE * IMAGE_SIZE * 3) as usize;

/// Why a data set was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The model does not load.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The seed or the number of scenes would reach seeds kept for evaluation.
    #[error(
        "seed {seed} with {scenes} scenes: at most {SCENES_PER_SEED} scenes and seeds below {} \
         keep training apart from evaluation",
        TRAINING_SEEDS / SCENES_PER_SEED
    )]
    SeedRange {
        /// Asked seed.
        seed: u64,
        /// Asked number of scenes.
        scenes: u32,
    },
    /// A worker thread ended before its work was done.
    #[error("a recording thread ended early, after {scenes_done} scenes")]
    Worker {
        /// Scenes written before.
        scenes_done: u32,
    },
}

/// `meta.json` of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of the layout: 1.
    pub format: u32,
    /// Name of the robot description.
    pub robot: String,
    /// [`RecordOptions::seed`].
    pub seed: u64,
    /// Number of scenes.
    pub scenes: u32,
    /// Number of episodes written.
    pub episodes: u32,
    /// Number of frames N.
    pub frames: u64,
    /// Rows of a plan.
    pub horizon: usize,
    /// Time between rows, s.
    pub row_period_s: f64,
    /// Joint names in order.
    pub joints: Vec<String>,
    /// Cameras in order.
    pub cameras: Vec<CameraMeta>,
    /// Colour names; the index is the target's number.
    pub colours: Vec<String>,
    /// Sentence templates with `{colour}`.
    pub phrases: Vec<String>,
    /// Episodes the expert succeeded in, and all.
    pub expert_success: [u32; 2],
    /// Whether looks were random.
    pub randomised: bool,
}

/// A camera in `meta.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CameraMeta {
    /// Name.
    pub name: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// One frame: the world at one 10 Hz tick of the expert, images and state of the same instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// `[2, 96, 96, 3]` u8 RGB, cameras in order.
    pub images: Vec<u8>,
    /// Measured joint positions, rad.
    pub state: [f32; JOINTS],
    /// Commanded joint positions, rad.
    pub command: [f32; JOINTS],
    /// `[HORIZON, JOINTS]` rad: the clean plan.
    pub actions: [[f32; JOINTS]; HORIZON],
    /// Cube centres, base frame, m.
    pub cubes: [[f32; 3]; CUBES],
    /// Per camera and cube: u, v and 1 when the centre is inside the image and not hidden.
    pub pixels: [[[f32; 3]; CUBES]; 2],
    /// Named colour.
    pub target: u8,
    /// Number of the episode.
    pub episode: u32,
    /// Number of the scene.
    pub scene: u32,
    /// [`crate::expert::Phase`] as a number.
    pub phase: u8,
}

/// Takes frames of a world: renderers and camera numbers, kept between frames.
pub struct Studio {
    model: Arc<Model>,
    cameras: [usize; 2],
    renderer: Renderer,
    poses: Vec<BodyPose>,
}

impl Studio {
    /// A studio for worlds of this model.
    ///
    /// # Errors
    /// When the model lacks a camera of [`CAMERAS`].
    pub fn new(model: Arc<Model>) -> Result<Self, ModelError> {
        let cameras = [model.camera_index(CAMERAS[0])?, model.camera_index(CAMERAS[1])?];
        Ok(Self { model, cameras, renderer: Renderer::new(IMAGE_SIZE, IMAGE_SIZE), poses: Vec::new() })
    }

    /// The world as it stands, labelled with `plan`; episode and scene are 0 until the caller sets
    /// them.
    pub fn frame(
        &mut self,
        physics: &Physics,
        look: &Look,
        command_rad: &[f64; JOINTS],
        plan: &Plan,
        target: usize,
    ) -> Frame {
        physics.body_poses(&mut self.poses);
        let cubes = physics.cubes().map(|cube| cube.position_m.map(|x| x as f32));
        let mut images = vec![0; CAMERAS.len() * IMAGE_BYTES];
        let mut pixels = [[[0.0; 3]; CUBES]; 2];
        for (slot, &camera) in self.cameras.iter().enumerate() {
            let mounted = &self.model.cameras[camera];
            let size = (IMAGE_SIZE, IMAGE_SIZE);
            let view = View::new(mounted, camera, &self.poses, look, size);
            let image = &mut images[slot * IMAGE_BYTES..(slot + 1) * IMAGE_BYTES];
            self.renderer.render(&self.model.triangles, &self.poses, view, look, image);
            for (cube, pixel) in pixels[slot].iter_mut().enumerate() {
                if let Some(([u, v], seen)) = self.renderer.locate_cube(cube as u8, cubes[cube]) {
                    *pixel = [u, v, f32::from(u8::from(seen))];
                }
            }
        }
        Frame {
            images,
            state: physics.measured_rad().map(|x| x as f32),
            command: command_rad.map(|x| x as f32),
            actions: plan.rows.map(|row| row.map(|x| x as f32)),
            cubes,
            pixels,
            target: target as u8,
            episode: 0,
            scene: 0,
            phase: plan.phase as u8,
        }
    }
}

/// A data set being written. Its arrays are complete only after [`DatasetWriter::finish`].
pub struct DatasetWriter {
    directory: PathBuf,
    images: NpyWriter,
    /// `state`, `command`, `actions`, `cubes`, `pixels`.
    floats: [NpyWriter; 5],
    /// `target`, `phase`.
    bytes: [NpyWriter; 2],
    /// `episode`, `scene`.
    numbers: [NpyWriter; 2],
    frames: u64,
}

impl DatasetWriter {
    /// Creates the directory and its arrays, replacing arrays that are there.
    ///
    /// # Errors
    /// [`DatasetError::Io`].
    pub fn create(directory: &Path) -> Result<Self, DatasetError> {
        let io = |source| DatasetError::Io { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(io)?;
        let open =
            |name: &str, dtype, row| NpyWriter::create(&directory.join(format!("{name}.npy")), dtype, row).map_err(io);
        Ok(Self {
            directory: directory.to_owned(),
            images: open("images", Dtype::U8, &[2, IMAGE_SIZE as usize, IMAGE_SIZE as usize, 3])?,
            floats: [
                open("state", Dtype::F32, &[JOINTS])?,
                open("command", Dtype::F32, &[JOINTS])?,
                open("actions", Dtype::F32, &[HORIZON, JOINTS])?,
                open("cubes", Dtype::F32, &[CUBES, 3])?,
                open("pixels", Dtype::F32, &[2, CUBES, 3])?,
            ],
            bytes: [open("target", Dtype::U8, &[])?, open("phase", Dtype::U8, &[])?],
            numbers: [open("episode", Dtype::U32, &[])?, open("scene", Dtype::U32, &[])?],
            frames: 0,
        })
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// [`DatasetError::Io`].
    pub fn push(&mut self, frame: &Frame) -> Result<(), DatasetError> {
        self.try_push(frame).map_err(|source| DatasetError::Io { path: self.directory.clone(), source })
    }

    fn try_push(&mut self, frame: &Frame) -> std::io::Result<()> {
        if frame.images.len() != CAMERAS.len() * IMAGE_BYTES {
            return Err(std::io::Error::other("a frame's images have another size"));
        }
        self.images.push_u8(&frame.images)?;
        let [state, command, actions, cubes, pixels] = &mut self.floats;
        state.push_f32(&frame.state)?;
        command.push_f32(&frame.command)?;
        actions.push_f32(frame.actions.as_flattened())?;
        cubes.push_f32(frame.cubes.as_flattened())?;
        pixels.push_f32(frame.pixels.as_flattened().as_flattened())?;
        let [target, phase] = &mut self.bytes;
        target.push_u8(&[frame.target])?;
        phase.push_u8(&[frame.phase])?;
        let [episode, scene] = &mut self.numbers;
        episode.push_u32(frame.episode)?;
        scene.push_u32(frame.scene)?;
        self.frames += 1;
        Ok(())
    }

    /// Frames written so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Writes the arrays' lengths and `meta.json`.
    ///
    /// # Errors
    /// [`DatasetError::Io`].
    pub fn finish(self, meta: &Meta) -> Result<(), DatasetError> {
        let io = |source| DatasetError::Io { path: self.directory.clone(), source };
        let n = self.frames as usize;
        self.images.finish(n).map_err(io)?;
        for array in self.floats.into_iter().chain(self.bytes).chain(self.numbers) {
            array.finish(n).map_err(io)?;
        }
        let text = serde_json::to_string_pretty(meta).map_err(|e| io(std::io::Error::other(e)))?;
        std::fs::write(self.directory.join("meta.json"), text + "\n").map_err(io)
    }
}
