//! Captures from a V4L2 camera and says what came: `capture DEVICE WIDTH HEIGHT yuyv|mjpeg RATE_HZ FRAMES`.

use endplate_hal::{CameraDevice, CameraSpec, Clock, Frame, MonotonicClock, PixelFormat, camera};
use std::sync::Arc;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, width, height, format, rate, frames] = arguments.as_slice() else {
        return Err("capture DEVICE WIDTH HEIGHT yuyv|mjpeg RATE_HZ FRAMES".into());
    };
    let format = if format == "yuyv" { PixelFormat::Yuyv } else { PixelFormat::Mjpeg };
    let spec = CameraSpec {
        name: "camera".to_owned(),
        driver: "v4l2".to_owned(),
        device: CameraDevice { path: Some(device.into()), format, ..CameraDevice::default() },
        width: width.parse()?,
        height: height.parse()?,
        rate_hz: rate.parse()?,
        max_age: Duration::from_secs(1),
        lag: Duration::ZERO,
    };
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let mut camera = camera::open(&spec, Arc::clone(&clock))?;
    let mut frame = Frame::new(spec.width, spec.height);
    let (mut seen, mut first, mut ages) = (0u32, None, Vec::new());
    let frames: u32 = frames.parse()?;
    while seen < frames {
        let now = clock.now();
        if camera.capture(now, &mut frame)? {
            seen += 1;
            first.get_or_insert((frame.sequence, frame.captured));
            ages.push(frame.available.seconds_since(frame.captured) * 1e3);
        } else {
            clock.sleep_until(now.saturating_add(Duration::from_millis(2)));
        }
    }
    let Some((sequence, captured)) = first else { return Err("no frames".into()) };
    ages.sort_by(f64::total_cmp);
    let mean = frame.data.iter().map(|&value| f64::from(value)).sum::<f64>() / frame.data.len() as f64;
    println!(
        "{seen} frames of {width}x{height}, sequence {sequence} to {}, {:.1} Hz by their stamps, age {:.1} to {:.1} ms \
(median {:.1}), mean level {mean:.1}",
        frame.sequence,
        (frame.sequence - sequence) as f64 / frame.captured.seconds_since(captured),
        ages[0],
        ages[ages.len() - 1],
        ages[ages.len() / 2],
    );
    Ok(())
}
