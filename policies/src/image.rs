//! Camera frames to model input: `[h, w, 3]` u8 to `[3, h, w]` f32 in 0..1, resized as the bundle says.
//!
//! The algorithm and the padding are part of the policy: training decided them. Against the training-side
//! implementations every algorithm differs by at most one grey level (PIL and torchvision for antialiased bilinear and
//! bicubic, JAX for Lanczos, OpenCV for plain bilinear; `tests/images.rs`). A frame that already has the slot's size is not resampled.

mod resample;

use core::time::Duration;
use std::time::Instant as WallInstant;

use endplate_hal::{Frame, FrameStamp};

use crate::policy::ObservationError;
use resample::{Placement, Resampler, split};

/// How a frame of another size is resampled.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Bilinear over the area a pixel covers (PIL's and torchvision's antialiased bilinear).
    BilinearAntialiased,
    /// Bilinear between the four nearest pixels (OpenCV's `INTER_LINEAR`).
    Bilinear,
    /// Cubic over the area a pixel covers (PIL's and torchvision's antialiased bicubic, a = −½).
    BicubicAntialiased,
    /// Lanczos of order 3 over the area a pixel covers (TensorFlow's and JAX's, antialiased).
    Lanczos3Antialiased,
    /// Not at all: a frame of another size than the slot's is refused.
    None,
}

/// What happens when the aspect ratios differ.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Pad {
    /// The image is stretched.
    None,
    /// The image keeps its aspect ratio, centred on black (openpi's `resize_with_pad`).
    Centre,
    /// The image keeps its aspect ratio, black above it and to its left (SmolVLA's `resize_with_pad`).
    TopLeft,
}

/// One camera slot of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameraSlot {
    /// The camera's name in the robot description.
    pub name: String,
    /// Pixels across, as the model wants them.
    pub width: u32,
    /// Pixels down, as the model wants them.
    pub height: u32,
    /// Resampling.
    pub resize: Resize,
    /// Aspect ratio.
    pub pad: Pad,
}

/// Fills image slots straight into a graph's input.
///
/// # Real-time
/// Allocates at a slot's first frame and when the size of its frames changes, never else.
#[derive(Default)]
pub struct ImageLoader {
    /// By slot.
    slots: Vec<Slot>,
    /// What the frames loaded since [`take_ahead`](Self::take_ahead) had cost ahead.
    ahead: Duration,
}

/// What is kept of a slot from one frame to the next.
#[derive(Default)]
struct Slot {
    resampler: Option<Resampler>,
    /// The frame that lies in the input ahead of being asked for, and how long it took to put it there.
    ahead: Option<(FrameStamp, Duration)>,
}

impl ImageLoader {
    /// A loader that has seen no frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads a frame that may be asked for next, unless it lies there already: [`load`](Self::load) of the same frame then
    /// has nothing left to do. What cannot be loaded is left for `load` to refuse.
    pub fn prepare(&mut self, index: usize, slot: &CameraSlot, frame: &Frame, into: &mut [f32]) {
        let stamp = FrameStamp::of(index, frame);
        if self.slots.get(index).is_some_and(|kept| kept.ahead.is_some_and(|(ahead, _)| ahead == stamp)) {
            return;
        }
        let begin = WallInstant::now();
        if self.load(index, slot, frame, into).is_ok() {
            self.slots[index].ahead = Some((stamp, begin.elapsed()));
        }
    }

    /// Nothing lies in the inputs ahead.
    pub fn forget(&mut self) {
        for slot in &mut self.slots {
            slot.ahead = None;
        }
    }

    /// The time that was spent ahead on the frames loaded since this was last asked.
    pub fn take_ahead(&mut self) -> Duration {
        core::mem::take(&mut self.ahead)
    }

    /// Writes `frame` to `into`, `[3, h, w]` of the slot with number `index`, u8/255, unless it lies there from
    /// [`prepare`](Self::prepare).
    ///
    /// # Errors
    /// [`ObservationError::Frame`] for an empty or torn frame, or an `into` of another size;
    /// [`ObservationError::FrameSize`] for a frame that would have to be resampled where the bundle says that nothing is.
    pub fn load(
        &mut self,
        index: usize,
        slot: &CameraSlot,
        frame: &Frame,
        into: &mut [f32],
    ) -> Result<(), ObservationError> {
        let bytes = frame.width as usize * frame.height as usize * 3;
        let slot_size = (slot.width as usize, slot.height as usize);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Slot::default);
        }
        let kept = &mut self.slots[index];
        if let Some((ahead, took)) = kept.ahead.take()
            && ahead == FrameStamp::of(index, frame)
        {
            self.ahead += took;
            return Ok(());
        }
        if bytes == 0 || frame.data.len() != bytes || frame.sequence == 0 || into.len() != slot_size.0 * slot_size.1 * 3
        {
            return Err(ObservationError::Frame {
                slot: index,
                width: frame.width,
                height: frame.height,
                bytes: frame.data.len(),
                sequence: frame.sequence,
            });
        }
        if (frame.width, frame.height) == (slot.width, slot.height) {
            split(&frame.data, into);
            return Ok(());
        }
        if slot.resize == Resize::None {
            return Err(ObservationError::FrameSize {
                slot: index,
                width: frame.width,
                height: frame.height,
                needed_width: slot.width,
                needed_height: slot.height,
            });
        }
        let from = (frame.width as usize, frame.height as usize);
        let placement = placement(slot, frame);
        let kept = &mut kept.resampler;
        if kept.as_ref().is_none_or(|resampler| !resampler.fits(slot.resize, from, placement)) {
            *kept = None;
        }
        pad(placement, into);
        kept.get_or_insert_with(|| Resampler::new(slot.resize, from, placement)).run(&frame.data, into);
        Ok(())
    }
}

/// Where a frame's scaled image lies in its slot.
fn placement(slot: &CameraSlot, frame: &Frame) -> Placement {
    let (width, height) = fitted(slot, frame);
    let room = ((slot.width - width) as usize, (slot.height - height) as usize);
    Placement {
        size: (width as usize, height as usize),
        corner: if slot.pad == Pad::TopLeft { room } else { (room.0 / 2, room.1 / 2) },
        slot: (slot.width as usize, slot.height as usize),
    }
}

/// Blackens what the scaled image leaves free.
fn pad(placement: Placement, into: &mut [f32]) {
    let Placement { size, corner, slot } = placement;
    if size == slot {
        return;
    }
    for plane in into.chunks_exact_mut(slot.0 * slot.1) {
        for (y, row) in plane.chunks_exact_mut(slot.0).enumerate() {
            if (corner.1..corner.1 + size.1).contains(&y) {
                row[..corner.0].fill(0.0);
                row[corner.0 + size.0..].fill(0.0);
            } else {
                row.fill(0.0);
            }
        }
    }
}

/// The size a frame is scaled to inside its slot.
fn fitted(slot: &CameraSlot, frame: &Frame) -> (u32, u32) {
    if slot.pad == Pad::None {
        return (slot.width, slot.height);
    }
    // In f64 and cut, not rounded, as both of them do it.
    let ratio = (f64::from(frame.width) / f64::from(slot.width)).max(f64::from(frame.height) / f64::from(slot.height));
    let side = |from: u32, most: u32| ((f64::from(from) / ratio) as u32).clamp(1, most);
    (side(frame.width, slot.width), side(frame.height, slot.height))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(width: u32, height: u32, pad: Pad) -> CameraSlot {
        CameraSlot { name: "front".into(), width, height, resize: Resize::BilinearAntialiased, pad }
    }

    fn frame(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Frame {
        let mut frame = Frame::new(width, height);
        frame.data = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y)).collect();
        frame.sequence = 1;
        frame
    }

    #[test]
    fn a_frame_of_the_right_size_is_only_split_into_planes() {
        let frame = frame(3, 2, |x, y| [(x * 10 + y) as u8, 100, 255]);
        let mut planes = vec![0.0; 18];
        ImageLoader::new().load(0, &slot(3, 2, Pad::None), &frame, &mut planes).unwrap();
        let want = [0.0, 10.0, 20.0, 1.0, 11.0, 21.0].map(|v: f32| v / 255.0);
        assert_eq!(planes[..6], want);
        assert_eq!(planes[6..12], [100.0 / 255.0; 6]);
        assert_eq!(planes[12..], [1.0; 6]);
    }

    #[test]
    fn a_larger_frame_is_averaged_and_a_wider_one_is_centred_on_black() {
        let wide = frame(8, 4, |x, _| if x % 2 == 0 { [0; 3] } else { [200; 3] });
        let mut planes = vec![9.0; 48];
        ImageLoader::new().load(0, &slot(4, 4, Pad::Centre), &wide, &mut planes).unwrap();
        assert_eq!(planes[..4], [0.0; 4], "top row is padding");
        assert_eq!(planes[12..16], [0.0; 4], "bottom row is padding");
        assert!(planes[5..7].iter().all(|v| (v * 255.0 - 100.0).abs() < 15.0), "{:?}", &planes[..16]);
    }

    #[test]
    fn padding_goes_where_the_slot_says_and_sizes_are_cut() {
        let wide = frame(7, 3, |_, _| [255; 3]);
        // 7 / (7/4) = 4 columns, 3 / (7/4) = 1.71 rows: 1.
        for (pad, row) in [(Pad::Centre, 1), (Pad::TopLeft, 3)] {
            let mut planes = vec![9.0; 48];
            ImageLoader::new().load(0, &slot(4, 4, pad), &wide, &mut planes).unwrap();
            for (y, values) in planes[..16].chunks_exact(4).enumerate() {
                assert_eq!(values, [if y == row { 1.0 } else { 0.0 }; 4], "{pad:?}, row {y}");
            }
        }
    }

    #[test]
    fn a_slot_that_is_not_resampled_takes_its_own_size_only() {
        let slot = CameraSlot { resize: Resize::None, ..slot(2, 2, Pad::None) };
        let mut planes = vec![0.0; 12];
        let mut loader = ImageLoader::new();
        loader.load(0, &slot, &frame(2, 2, |_, _| [255; 3]), &mut planes).unwrap();
        assert_eq!(planes, [1.0; 12]);
        let error = loader.load(3, &slot, &frame(4, 2, |_, _| [0; 3]), &mut planes).unwrap_err();
        assert_eq!(
            error,
            ObservationError::FrameSize { slot: 3, width: 4, height: 2, needed_width: 2, needed_height: 2 }
        );
    }

    #[test]
    fn a_prepared_frame_is_not_loaded_again_and_any_other_is() {
        let slot = slot(2, 2, Pad::None);
        let mut loader = ImageLoader::new();
        let dark = frame(4, 4, |_, _| [0; 3]);
        let mut bright = frame(4, 4, |_, _| [255; 3]);
        bright.sequence = 2;
        let mut planes = vec![7.0; 12];
        loader.prepare(0, &slot, &dark, &mut planes);
        assert_eq!(planes, [0.0; 12]);
        // What only a load would repair shows whether there was one.
        planes.fill(7.0);
        loader.prepare(0, &slot, &dark, &mut planes);
        loader.load(0, &slot, &dark, &mut planes).unwrap();
        assert_eq!(planes, [7.0; 12], "it lies there");
        assert!(loader.take_ahead() > Duration::ZERO);
        loader.load(0, &slot, &dark, &mut planes).unwrap();
        assert_eq!((planes[0], loader.take_ahead()), (0.0, Duration::ZERO), "asked for twice, loaded again");
        loader.prepare(0, &slot, &dark, &mut planes);
        loader.load(0, &slot, &bright, &mut planes).unwrap();
        assert_eq!((planes[0], loader.take_ahead()), (1.0, Duration::ZERO), "another frame");
        loader.prepare(0, &slot, &bright, &mut planes);
        loader.forget();
        planes.fill(7.0);
        loader.load(0, &slot, &bright, &mut planes).unwrap();
        assert_eq!(planes, [1.0; 12]);
        // What cannot be loaded is refused when it is asked for.
        loader.prepare(0, &slot, &Frame::new(4, 4), &mut planes);
        assert!(loader.load(0, &slot, &Frame::new(4, 4), &mut planes).is_err());
    }

    #[test]
    fn torn_and_empty_frames_are_refused() {
        let mut planes = vec![0.0; 12];
        let mut loader = ImageLoader::new();
        let empty = Frame::new(2, 2);
        assert!(matches!(
            loader.load(1, &slot(2, 2, Pad::None), &empty, &mut planes),
            Err(ObservationError::Frame { slot: 1, sequence: 0, .. })
        ));
        let mut torn = frame(2, 2, |_, _| [1; 3]);
        torn.data.pop();
        assert!(matches!(
            loader.load(0, &slot(2, 2, Pad::None), &torn, &mut planes),
            Err(ObservationError::Frame { bytes: 11, .. })
        ));
    }
}
