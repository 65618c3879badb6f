//! What robots sense: joints and images.

use super::{Header, Seq, interface, topic};

interface!(
    /// Joints by name. Each array is empty or as long as `name`; a joint without a value may be NaN.
    JointState<'a> = "sensor_msgs/msg/JointState" {
        /// Time of the values.
        header: Header<'a>,
        /// `[D]` joint names, in the sender's order.
        name: Seq<'a, &'a str>,
        /// `[D]` rad (m for prismatic joints), or empty.
        position: Seq<'a, f64>,
        /// `[D]` rad/s, or empty.
        velocity: Seq<'a, f64>,
        /// `[D]` N·m, or empty.
        effort: Seq<'a, f64>,
    }
);
topic!(JointState<'a>, "sensor_msgs", "JointState", "a13ee3a330e346c9d87b5aa18d24e11690752bd33a0350f11c5882bc9179260e");

interface!(
    /// A raw image.
    Image<'a> = "sensor_msgs/msg/Image" {
        /// Capture time and optical frame.
        header: Header<'a>,
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
        /// Pixel form, for example `rgb8`.
        encoding: &'a str,
        /// Whether pixels of several bytes are big endian.
        is_bigendian: u8,
        /// Bytes of a row.
        step: u32,
        /// `[height, step]`.
        data: &'a [u8],
    }
);
topic!(Image<'a>, "sensor_msgs", "Image", "d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47");

interface!(
    /// A compressed image.
    CompressedImage<'a> = "sensor_msgs/msg/CompressedImage" {
        /// Capture time and optical frame.
        header: Header<'a>,
        /// `jpeg`, `png`, or what image_transport writes: `rgb8; jpeg compressed bgr8`.
        format: &'a str,
        /// The file.
        data: &'a [u8],
    }
);
topic!(
    CompressedImage<'a>,
    "sensor_msgs",
    "CompressedImage",
    "15640771531571185e2efc8a100baf923961a4d15d5569652e6cb6691e8e371a"
);

interface!(
    /// A part of an image.
    RegionOfInterest = "sensor_msgs/msg/RegionOfInterest" {
        /// Leftmost column.
        x_offset: u32,
        /// Topmost row.
        y_offset: u32,
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
        /// Whether a rectified part is to be made of it.
        do_rectify: bool,
    }
);

interface!(
    /// A camera's calibration.
    CameraInfo<'a> = "sensor_msgs/msg/CameraInfo" {
        /// Capture time and optical frame.
        header: Header<'a>,
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
        /// `plumb_bob`, `rational_polynomial`, …
        distortion_model: &'a str,
        /// Distortion parameters of that model.
        d: Seq<'a, f64>,
        /// `[3, 3]` intrinsics, pixels.
        k: [f64; 9],
        /// `[3, 3]` rectification.
        r: [f64; 9],
        /// `[3, 4]` projection, pixels.
        p: [f64; 12],
        /// Columns of a pixel of the image.
        binning_x: u32,
        /// Rows of a pixel of the image.
        binning_y: u32,
        /// Part of the sensor.
        roi: RegionOfInterest,
    }
);
topic!(CameraInfo<'a>, "sensor_msgs", "CameraInfo", "b3dfd68ff46c9d56c80fd3bd4ed22c7a4ddce8c8348f2f59c299e73118e7e275");
