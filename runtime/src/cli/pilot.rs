//! A bundle's policy at the wheel of a recording.

use super::bundle::PolicyArguments;
use super::error::CliError;
use endplate_hal::{Frame, Instant, JointState, JointVec};
use endplate_policies::{ActionChunk, Anchor, Budget, Bundle, Committed, Epoch, Loaded, Observation, Policy};
use endplate_sim::dataset::{CAMERAS, IMAGE_SIZE, Pilot};
use endplate_sim::model::JOINTS;

/// Drives with a policy, one observation an answer, nothing committed.
pub struct PolicyPilot {
    policy: Box<dyn Policy>,
    frames: Vec<Frame>,
    chunk: ActionChunk,
    instruction: String,
    episodes: u64,
}

impl PolicyPilot {
    /// Loads the policy.
    pub fn new(arguments: &PolicyArguments) -> Result<Self, CliError> {
        let (bundle, loaded): (Bundle, Loaded) = arguments.load()?;
        let spec = bundle.spec();
        let names: Vec<&str> = spec.cameras.iter().map(|slot| slot.name.as_str()).collect();
        if names != CAMERAS
            || !spec.actions.commands_joints()
            || spec.actions.dims().len() != JOINTS
            || spec.state.len() != JOINTS
        {
            let (dims, source) = (spec.actions.dims().len(), bundle.source());
            return Err(CliError::Refused(format!(
                "{source}: cameras {names:?} and {dims} joints; a recording has {CAMERAS:?} and {JOINTS}"
            )));
        }
        Ok(Self {
            chunk: ActionChunk::for_spec(spec),
            frames: CAMERAS.iter().map(|_| Frame::new(IMAGE_SIZE, IMAGE_SIZE)).collect(),
            policy: loaded.policy,
            instruction: String::new(),
            episodes: 0,
        })
    }
}

impl Pilot for PolicyPilot {
    fn begin(&mut self, instruction: &str) {
        instruction.clone_into(&mut self.instruction);
        self.episodes += 1;
        self.policy.reset(Epoch(self.episodes));
    }

    fn drive(&mut self, images: &[u8], state_rad: &[f32; JOINTS]) -> Vec<[f64; JOINTS]> {
        let size = images.len() / self.frames.len();
        for (frame, pixels) in self.frames.iter_mut().zip(images.chunks_exact(size)) {
            frame.data.copy_from_slice(pixels);
            frame.sequence += 1;
        }
        let observation = Observation {
            frames: &self.frames,
            state: JointState {
                stamp: Instant::ZERO,
                position_rad: JointVec::from_fn(JOINTS, |joint| f64::from(state_rad[joint])),
                velocity_rad_s: JointVec::zeros(JOINTS),
                effort_nm: None,
            },
            past: &[],
            instruction: &self.instruction,
            anchor: Anchor::default(),
        };
        let committed = Committed::none(Epoch(self.episodes));
        let budget = Budget::unlimited(Instant::ZERO);
        match self.policy.infer(&observation, &committed, budget, &mut self.chunk) {
            Ok(_) => self.chunk.rows().chunks_exact(JOINTS).map(|row| std::array::from_fn(|j| row[j])).collect(),
            // Standing still is what the runtime would do, and what the expert is to show a way out of.
            Err(_) => Vec::new(),
        }
    }
}
