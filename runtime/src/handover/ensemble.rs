//! Temporal ensembling (Zhao et al., arXiv 2304.13705, §IV-B): every chunk that has a row for the present motion time
//! has a say in it, by `exp(−m·i)`, where i = 0 is the *oldest*.

use super::track::Track;
use crate::scheduler::{MAX_ROWS, Reference};
use endplate_hal::MotionTime;
use endplate_policies::{Blending, Interpolation};

/// Older chunks kept beside the newest: at a chunk a row, all that still have a row, of chunks of any length; at one and a
/// half, which old frames make of it, of chunks of up to 84 rows.
const OLDER: usize = MAX_ROWS - 1;

/// The chunks before the newest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ensemble {
    /// A ring; empty ones have no rows.
    older: Vec<Track>,
    /// Where the next goes: the oldest.
    next: usize,
}

impl Ensemble {
    pub(crate) fn new(dims: usize) -> Self {
        Self { older: vec![Track::new(dims); OLDER], next: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.older.iter_mut().for_each(Track::clear);
    }

    /// Keeps a chunk that a newer one replaces.
    pub(crate) fn push(&mut self, track: &Track) {
        if let Some(oldest) = self.older.get_mut(self.next) {
            oldest.copy_from(track);
            self.next = (self.next + 1) % self.older.len();
        }
    }

    /// Averages `newest`, the newest chunk's reference, with those of the older ones. Dimensions that latch stay the
    /// newest chunk's.
    pub(crate) fn average(
        &self,
        newest: &Reference,
        motion: MotionTime,
        decay: f64,
        interpolation: &[Interpolation],
        blending: &[Blending],
    ) -> Reference {
        let mut sum = Sum { weight: 0.0, reference: *newest };
        let mut age = 0;
        let (late, early) = self.older.split_at(self.next);
        for track in early.iter().chain(late).filter(|track| track.covers(motion)) {
            if let Some(reference) = track.sample(motion, interpolation) {
                sum.add(&reference, (-decay * f64::from(age)).exp());
                age += 1;
            }
        }
        sum.add(newest, (-decay * f64::from(age)).exp());
        for dim in (0..interpolation.len()).filter(|&dim| blending.get(dim) != Some(&Blending::Average)) {
            sum.reference.position_rad[dim] = newest.position_rad[dim];
            sum.reference.velocity_rad_s[dim] = newest.velocity_rad_s[dim];
            sum.reference.acceleration_rad_s2[dim] = newest.acceleration_rad_s2[dim];
        }
        sum.reference.row = newest.row;
        sum.reference
    }
}

/// A running weighted mean.
struct Sum {
    weight: f64,
    reference: Reference,
}

impl Sum {
    fn add(&mut self, other: &Reference, weight: f64) {
        self.weight += weight;
        let share = weight / self.weight;
        let pairs = [
            (&mut self.reference.position_rad, &other.position_rad),
            (&mut self.reference.velocity_rad_s, &other.velocity_rad_s),
            (&mut self.reference.acceleration_rad_s2, &other.acceleration_rad_s2),
        ];
        for (mean, new) in pairs {
            for (mean, new) in mean.iter_mut().zip(new.iter()) {
                *mean += (new - *mean) * share;
            }
        }
    }
}
