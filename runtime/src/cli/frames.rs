//! What the cameras saw, as PNG: single frames, or one strip an episode.

use super::error::CliError;
use core::time::Duration;
use endplate_hal::{Camera, Frame, Instant};
use endplate_sim::robot::{SimCamera, SimRobot};
use std::path::{Path, PathBuf};

/// Between frames.
const EVERY: Duration = Duration::from_millis(500);
/// Most columns of a strip.
const COLUMNS: usize = 24;
/// Pixels of a strip for each pixel of a camera.
const SCALE: usize = 2;

/// Looks through camera handles of its own, twice a second.
pub struct FrameSaver {
    cameras: Vec<(SimCamera, Frame)>,
    next: Instant,
    sink: Sink,
}

enum Sink {
    /// One file a frame.
    Files { folder: PathBuf, saved: u64 },
    /// Columns of one strip: the images of all cameras, one above the other.
    Strip { columns: Vec<Vec<Vec<u8>>> },
}

impl FrameSaver {
    /// Saves every frame in `folder`.
    pub fn files(folder: &Path, world: &SimRobot) -> Result<Self, CliError> {
        std::fs::create_dir_all(folder).map_err(|error| CliError::Input(format!("{}: {error}", folder.display())))?;
        Ok(Self::new(world, Sink::Files { folder: folder.to_owned(), saved: 0 }))
    }

    /// Keeps frames for [`write_strip`](Self::write_strip).
    pub fn strip(world: &SimRobot) -> Self {
        Self::new(world, Sink::Strip { columns: Vec::new() })
    }

    fn new(world: &SimRobot, sink: Sink) -> Self {
        let frame = |camera: SimCamera| {
            let (width, height) = camera.size();
            (camera, Frame::new(width, height))
        };
        Self { cameras: world.cameras().into_iter().map(frame).collect(), next: Instant::ZERO, sink }
    }

    /// Takes the newest frames when it is time; the messages of what could not be saved.
    pub fn save(&mut self, episode: u64, now: Instant) -> Vec<String> {
        if now < self.next {
            return Vec::new();
        }
        self.next = now.saturating_add(EVERY);
        let mut failures = Vec::new();
        match &mut self.sink {
            Sink::Files { folder, saved } => {
                *saved += 1;
                for (camera, frame) in &mut self.cameras {
                    if !matches!(camera.capture(now, frame), Ok(true)) {
                        continue;
                    }
                    let name = format!("episode{episode:03}_{saved:05}_{}.png", camera.name());
                    if let Err(error) = write_png(&folder.join(&name), frame.width, frame.height, &frame.data) {
                        failures.push(format!("{name} was not saved: {error}"));
                    }
                }
            }
            Sink::Strip { columns } => {
                let mut column = Vec::new();
                for (camera, frame) in &mut self.cameras {
                    // A camera without news shows what it showed.
                    if let Err(error) = camera.capture(now, frame) {
                        failures.push(format!("{}: {error}", camera.name()));
                    }
                    column.push(frame.data.clone());
                }
                if columns.len() < COLUMNS {
                    columns.push(column);
                }
            }
        }
        failures
    }

    /// Writes what was kept of an episode as one picture, time from left to right, a row a camera; starts anew.
    pub fn write_strip(&mut self, path: &Path) -> Result<(), CliError> {
        let Sink::Strip { columns } = &mut self.sink else { return Ok(()) };
        let columns = std::mem::take(columns);
        self.next = Instant::ZERO;
        let size = |(_, frame): &(SimCamera, Frame)| (frame.width as usize, frame.height as usize);
        let wide = self.cameras.iter().map(|camera| size(camera).0).max().unwrap_or(0) * SCALE;
        let high = self.cameras.iter().map(|camera| size(camera).1 * SCALE).sum::<usize>();
        let width = wide * columns.len();
        let mut picture = vec![0u8; width * high * 3];
        for (index, column) in columns.iter().enumerate() {
            let mut top = 0;
            for (image, camera) in column.iter().zip(&self.cameras) {
                let (w, h) = size(camera);
                for y in 0..h * SCALE {
                    for x in 0..w * SCALE {
                        let from = ((y / SCALE) * w + x / SCALE) * 3;
                        let to = ((top + y) * width + index * wide + x) * 3;
                        picture[to..to + 3].copy_from_slice(&image[from..from + 3]);
                    }
                }
                top += h * SCALE;
            }
        }
        write_png(path, width as u32, high as u32, &picture)
            .map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))
    }
}

fn write_png(path: &Path, width: u32, height: u32, rgb: &[u8]) -> Result<(), png::EncodingError> {
    let file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut encoder = png::Encoder::new(file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(rgb)
}
