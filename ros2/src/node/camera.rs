//! A camera that is a topic, raw or compressed.

use super::{StampError, lock};
use crate::cdr::CdrError;
use crate::interface::{CompressedImage, Image, Message, decode};
use crate::message::Stamp;
use crate::rmw::Qos;
use crate::transport::{Endpoint, Transport, TransportError};
use endplate_hal::{Camera, CameraError, Clock, Frame, Instant};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

/// Where a camera's images come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameraTopic {
    /// The camera's name in the robot description.
    pub name: String,
    /// Topic.
    pub topic: String,
    /// Whether it carries `sensor_msgs/msg/CompressedImage`.
    pub is_compressed: bool,
    /// Width and height in the robot description, pixels; an image of another size is refused.
    pub size: (u32, u32),
}

/// Why an image is not used; the last good one grows older.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ImageError {
    /// The bytes.
    #[error("not an image message: {0}")]
    Bytes(#[from] CdrError),
    /// Another pixel form.
    #[error("encoding {0:?}: send rgb8, bgr8, rgba8, bgra8 or mono8")]
    Encoding(String),
    /// Another file format.
    #[error("compressed format {0:?}: send jpeg or png")]
    Format(String),
    /// The file.
    #[error("the compressed image does not decode: {0}")]
    File(String),
    /// Another size.
    #[error("the image is {got:?} pixels and the robot description says {needed:?}")]
    Size {
        /// Width and height of the image.
        got: (u32, u32),
        /// Width and height described.
        needed: (u32, u32),
    },
    /// The data is not rows of pixels.
    #[error("{height} rows of {step} bytes for {width} pixels of {pixel} bytes are not {data} bytes of data")]
    Data {
        /// Rows.
        height: u32,
        /// Bytes of a row.
        step: u32,
        /// Pixels of a row.
        width: u32,
        /// Bytes of a pixel.
        pixel: u32,
        /// Bytes of data.
        data: usize,
    },
    /// The stamp.
    #[error("the stamp of the image: {0}")]
    Stamp(#[from] StampError),
    /// The same stamp again: the driver is frozen.
    #[error("an image with the stamp of the one before")]
    Repeated,
}

struct Slot {
    frame: Frame,
    stamp: Stamp,
    complaint: Option<String>,
}

struct Shared {
    slot: Mutex<Slot>,
    frames: AtomicU64,
    refused: AtomicU64,
}

/// The camera behind the `hal` trait.
pub struct TopicCamera {
    topic: CameraTopic,
    shared: Arc<Shared>,
    _endpoint: Box<dyn Endpoint>,
}

/// The counters of a camera, for the node that manages it.
#[derive(Clone)]
pub struct CameraLink {
    name: String,
    shared: Arc<Shared>,
}

impl CameraLink {
    /// The camera's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Images taken and images refused so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.frames.load(Ordering::Relaxed), self.shared.refused.load(Ordering::Relaxed))
    }

    /// Why the newest refused image was refused, once.
    pub fn complaint(&self) -> Option<String> {
        lock(&self.shared.slot).complaint.take()
    }

    /// Capture time of the newest image.
    pub fn captured(&self) -> Option<Instant> {
        let slot = lock(&self.shared.slot);
        (slot.frame.sequence > 0).then_some(slot.frame.captured)
    }
}

impl TopicCamera {
    /// Subscribes to a camera's topic. `place` puts a stamp into this process's time.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn connect(
        transport: &dyn Transport,
        topic: CameraTopic,
        clock: Arc<dyn Clock>,
        place: impl Fn(Stamp) -> Result<Instant, StampError> + Send + Sync + 'static,
    ) -> Result<(Self, CameraLink), TransportError> {
        let (width, height) = topic.size;
        let slot = Slot { frame: Frame::new(width, height), stamp: Stamp::default(), complaint: None };
        let shared = Arc::new(Shared { slot: Mutex::new(slot), frames: AtomicU64::new(0), refused: AtomicU64::new(0) });
        let (of_callback, size, is_compressed) = (Arc::clone(&shared), topic.size, topic.is_compressed);
        let mut scratch = vec![0; width as usize * height as usize * 3];
        let mut last = None;
        let on = Box::new(move |bytes: &[u8], _| {
            let now = clock.now();
            let taken = rgb(bytes, is_compressed, size, &mut scratch).and_then(|stamp| {
                if last == Some(stamp) {
                    return Err(ImageError::Repeated);
                }
                let captured = if stamp == Stamp::default() { now } else { place(stamp)? };
                Ok((stamp, captured))
            });
            let mut slot = lock(&of_callback.slot);
            match taken {
                Ok((stamp, captured)) => {
                    last = Some(stamp);
                    slot.frame.data.copy_from_slice(&scratch);
                    (slot.stamp, slot.frame.captured, slot.frame.available) = (stamp, captured.min(now), now);
                    slot.frame.sequence += 1;
                    of_callback.frames.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    slot.complaint = Some(error.to_string());
                    of_callback.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let kind = if is_compressed { CompressedImage::TYPE } else { Image::TYPE };
        let endpoint = transport.subscribe(&topic.topic, kind, Qos::LATEST, on)?;
        let link = CameraLink { name: topic.name.clone(), shared: Arc::clone(&shared) };
        Ok((Self { topic, shared, _endpoint: endpoint }, link))
    }
}

impl Camera for TopicCamera {
    fn name(&self) -> &str {
        &self.topic.name
    }

    fn size(&self) -> (u32, u32) {
        self.topic.size
    }

    fn capture(&mut self, _: Instant, frame: &mut Frame) -> Result<bool, CameraError> {
        let (width, height) = self.topic.size;
        if (frame.width, frame.height) != (width, height) {
            return Err(CameraError::WrongSize { width, height });
        }
        let slot = lock(&self.shared.slot);
        if slot.frame.sequence == 0 || slot.frame.sequence == frame.sequence {
            return Ok(false);
        }
        frame.copy_from(&slot.frame);
        Ok(true)
    }
}

/// Decodes a message into `[h, w, 3]` RGB; its stamp.
fn rgb(bytes: &[u8], is_compressed: bool, size: (u32, u32), out: &mut [u8]) -> Result<Stamp, ImageError> {
    if is_compressed {
        let message: CompressedImage = decode(bytes)?;
        decompress(&message, size, out)?;
        return Ok(message.header.stamp);
    }
    let Image { header, height, width, encoding, step, data, .. } = decode(bytes)?;
    if (width, height) != size {
        return Err(ImageError::Size { got: (width, height), needed: size });
    }
    let (pixel, order) = match encoding {
        "rgb8" => (3, [0, 1, 2]),
        "bgr8" => (3, [2, 1, 0]),
        "rgba8" => (4, [0, 1, 2]),
        "bgra8" => (4, [2, 1, 0]),
        "mono8" => (1, [0, 0, 0]),
        other => return Err(ImageError::Encoding(other.to_owned())),
    };
    let row = u64::from(width) * u64::from(pixel);
    if u64::from(step) < row || u64::from(height) * u64::from(step) != data.len() as u64 {
        return Err(ImageError::Data { height, step, width, pixel, data: data.len() });
    }
    for (from, to) in data.chunks_exact(step as usize).zip(out.chunks_exact_mut(width as usize * 3)) {
        if encoding == "rgb8" {
            to.copy_from_slice(&from[..row as usize]);
            continue;
        }
        for (pixel, rgb) in from.chunks_exact(pixel as usize).zip(to.chunks_exact_mut(3)) {
            rgb.copy_from_slice(&order.map(|channel| pixel[channel]));
        }
    }
    Ok(header.stamp)
}

fn decompress(message: &CompressedImage, size: (u32, u32), out: &mut [u8]) -> Result<(), ImageError> {
    let file = |error: &dyn core::fmt::Display| ImageError::File(error.to_string());
    let expect = |got: (u32, u32)| match got == size {
        true => Ok(()),
        false => Err(ImageError::Size { got, needed: size }),
    };
    // What image_transport writes names the original encoding first: `rgb8; jpeg compressed bgr8`.
    if message.format.contains("png") {
        let decoder = png::Decoder::new(std::io::Cursor::new(message.data));
        let mut reader = decoder.read_info().map_err(|error| file(&error))?;
        let info = reader.info();
        expect((info.width, info.height))?;
        if (info.color_type, info.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
            return Err(ImageError::Format(format!("{} ({:?})", message.format, info.color_type)));
        }
        reader.next_frame(out).map_err(|error| file(&error))?;
        return Ok(());
    }
    if !message.format.contains("jpeg") && !message.format.contains("jpg") {
        return Err(ImageError::Format(message.format.to_owned()));
    }
    let mut decoder = JpegDecoder::new(ZCursor::new(message.data));
    decoder.decode_headers().map_err(|error| file(&error))?;
    let info = decoder.info().ok_or_else(|| file(&"no header"))?;
    expect((u32::from(info.width), u32::from(info.height)))?;
    let pixels = decoder.decode().map_err(|error| file(&error))?;
    match pixels.len() {
        same if same == out.len() => out.copy_from_slice(&pixels),
        grey if grey * 3 == out.len() => {
            for (rgb, grey) in out.chunks_exact_mut(3).zip(&pixels) {
                rgb.fill(*grey);
            }
        }
        other => return Err(ImageError::File(format!("{other} bytes of pixels"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::{Header, Wire, encode};

    fn bytes<'a>(message: &impl Wire<'a>) -> Vec<u8> {
        let mut buffer = vec![0; 4096];
        let written = encode(message, &mut buffer).unwrap();
        buffer.truncate(written);
        buffer
    }

    fn image<'a>(encoding: &'a str, step: u32, data: &'a [u8]) -> Vec<u8> {
        bytes(&Image {
            header: Header { stamp: Stamp { seconds: 1, nanoseconds: 0 }, frame_id: "cam" },
            height: 1,
            width: 2,
            encoding,
            is_bigendian: 0,
            step,
            data,
        })
    }

    #[test]
    fn pixel_forms_become_rgb_and_others_are_refused_by_name() {
        let mut out = [0; 6];
        let mut read = |message: &[u8]| rgb(message, false, (2, 1), &mut out).map(|_| out);
        assert_eq!(read(&image("rgb8", 6, &[1, 2, 3, 4, 5, 6])), Ok([1, 2, 3, 4, 5, 6]));
        assert_eq!(read(&image("bgr8", 6, &[1, 2, 3, 4, 5, 6])), Ok([3, 2, 1, 6, 5, 4]));
        assert_eq!(read(&image("bgra8", 8, &[1, 2, 3, 0, 4, 5, 6, 0])), Ok([3, 2, 1, 6, 5, 4]));
        assert_eq!(read(&image("mono8", 4, &[1, 2, 9, 9])), Ok([1, 1, 1, 2, 2, 2]), "a row may be padded");
        assert_eq!(read(&image("16UC1", 4, &[0; 4])), Err(ImageError::Encoding("16UC1".into())));
        assert!(matches!(read(&image("rgb8", 5, &[0; 5])), Err(ImageError::Data { step: 5, .. })));
        assert!(matches!(read(&image("rgb8", 6, &[0; 5])), Err(ImageError::Data { data: 5, .. })));
        let small = rgb(&image("rgb8", 6, &[0; 6]), false, (4, 4), &mut [0; 48]);
        assert_eq!(small, Err(ImageError::Size { got: (2, 1), needed: (4, 4) }));
    }

    #[test]
    fn png_comes_back_and_other_files_are_refused() {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 2, 1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header().unwrap().write_image_data(&[9, 8, 7, 6, 5, 4]).unwrap();
        let compressed = |format, data| bytes(&CompressedImage { header: Header::default(), format, data });
        let mut out = [0; 6];
        let mut read = |message: &[u8]| rgb(message, true, (2, 1), &mut out).map(|_| out);
        assert_eq!(read(&compressed("rgb8; png compressed bgr8", &file)), Ok([9, 8, 7, 6, 5, 4]));
        assert!(matches!(read(&compressed("png", &file[..20])), Err(ImageError::File(_))));
        assert!(matches!(read(&compressed("jpeg", &[0xff, 0xd8])), Err(ImageError::File(_))));
        assert_eq!(read(&compressed("h264", &[])), Err(ImageError::Format("h264".into())));
    }
}
