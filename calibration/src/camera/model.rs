//! A pinhole camera with the distortion ROS and OpenCV call `plumb_bob`.

use nalgebra::{Isometry3, Point3};

/// Intrinsics of one camera at one image size. The centre of the top-left pixel is (0, 0).
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Intrinsics {
    /// Focal length across, pixels.
    pub fx: f64,
    /// Focal length down, pixels.
    pub fy: f64,
    /// Principal point across, pixels.
    pub cx: f64,
    /// Principal point down, pixels.
    pub cy: f64,
    /// k1, k2, p1, p2, k3 of Brown's model, in OpenCV's order.
    pub distortion: [f64; 5],
}

/// Numbers of an intrinsics vector: fx, fy, cx, cy and the distortion.
pub(super) const INTRINSIC: usize = 9;

impl Intrinsics {
    /// The pixel of a point in the camera's frame, m; `None` behind the camera.
    pub fn project(&self, point: &Point3<f64>) -> Option<[f64; 2]> {
        (point.z > 1e-9).then(|| {
            let [x, y] = self.distort([point.x / point.z, point.y / point.z]);
            [self.fx * x + self.cx, self.fy * y + self.cy]
        })
    }

    /// Where the lens puts a direction, both on the plane at distance 1.
    pub fn distort(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [k1, k2, p1, p2, k3] = self.distortion;
        let r2 = x * x + y * y;
        let radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3));
        [
            x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x),
            y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y,
        ]
    }

    /// The pixel of a point of a board at `pose`, m.
    pub(super) fn project_board(&self, pose: &Isometry3<f64>, [x, y]: [f64; 2]) -> Option<[f64; 2]> {
        self.project(&(pose * Point3::new(x, y, 0.0)))
    }

    pub(super) fn to_array(self) -> [f64; INTRINSIC] {
        let [k1, k2, p1, p2, k3] = self.distortion;
        [self.fx, self.fy, self.cx, self.cy, k1, k2, p1, p2, k3]
    }

    pub(super) fn from_array([fx, fy, cx, cy, k1, k2, p1, p2, k3]: [f64; INTRINSIC]) -> Self {
        Self { fx, fy, cx, cy, distortion: [k1, k2, p1, p2, k3] }
    }
}
