//! Where to start: homographies, then intrinsics in closed form (Zhang, IEEE T-PAMI 22, 2000).

use super::corners::Corner;
use super::model::Intrinsics;
use nalgebra::{DMatrix, Isometry3, Matrix3, Rotation3, Translation3, UnitQuaternion, Vector3};

/// The homography from board (m) to image (pixels), by the direct linear transform on normalised points.
pub(super) fn homography(corners: &[Corner]) -> Option<Matrix3<f64>> {
    let board = similarity(corners.iter().map(|corner| corner.object_m))?;
    let image = similarity(corners.iter().map(|corner| corner.pixel))?;
    let mut system = DMatrix::zeros(2 * corners.len().max(5), 9);
    for (index, corner) in corners.iter().enumerate() {
        let p = board * Vector3::new(corner.object_m[0], corner.object_m[1], 1.0);
        let q = image * Vector3::new(corner.pixel[0], corner.pixel[1], 1.0);
        for axis in 0..3 {
            system[(2 * index, axis)] = p[axis];
            system[(2 * index, 6 + axis)] = -q.x * p[axis];
            system[(2 * index + 1, 3 + axis)] = p[axis];
            system[(2 * index + 1, 6 + axis)] = -q.y * p[axis];
        }
    }
    let v_t = system.svd(false, true).v_t?;
    let normalised = Matrix3::from_fn(|row, column| v_t[(8, 3 * row + column)]);
    Some(image.try_inverse()? * normalised * board)
}

/// Moves points to their mean and scales them to a mean distance of √2 (Hartley).
fn similarity(points: impl Iterator<Item = [f64; 2]> + Clone) -> Option<Matrix3<f64>> {
    let n = points.clone().count() as f64;
    let (x, y) = points.clone().fold((0.0, 0.0), |(x, y), point| (x + point[0] / n, y + point[1] / n));
    let distance = points.map(|point| (point[0] - x).hypot(point[1] - y) / n).sum::<f64>();
    let scale = core::f64::consts::SQRT_2 / distance;
    scale.is_finite().then(|| Matrix3::new(scale, 0.0, -scale * x, 0.0, scale, -scale * y, 0.0, 0.0, 1.0))
}

/// Intrinsics without distortion and without skew from the homographies of three views or more, or of two with the
/// principal point in the middle of the image; `None` where the views do not determine them.
pub(super) fn intrinsics(homographies: &[Matrix3<f64>], width: u32, height: u32) -> Option<Intrinsics> {
    // In units of the image's size the system is well conditioned.
    let (cx, cy) = ((f64::from(width) - 1.0) / 2.0, (f64::from(height) - 1.0) / 2.0);
    let size = f64::from(width.max(height));
    let to_unit = Matrix3::new(1.0 / size, 0.0, -cx / size, 0.0, 1.0 / size, -cy / size, 0.0, 0.0, 1.0);
    // With the principal point in the middle, the image of the absolute conic is diagonal: ω = diag(1/fx², 1/fy², 1).
    let mut rows = DMatrix::zeros(2 * homographies.len(), 2);
    let mut right = nalgebra::DVector::zeros(2 * homographies.len());
    for (index, homography) in homographies.iter().enumerate() {
        let h = to_unit * homography;
        let h = h / h.norm();
        let (a, b) = (h.column(0), h.column(1));
        rows[(2 * index, 0)] = a[0] * b[0];
        rows[(2 * index, 1)] = a[1] * b[1];
        right[2 * index] = -a[2] * b[2];
        rows[(2 * index + 1, 0)] = a[0] * a[0] - b[0] * b[0];
        rows[(2 * index + 1, 1)] = a[1] * a[1] - b[1] * b[1];
        right[2 * index + 1] = b[2] * b[2] - a[2] * a[2];
    }
    let solved = rows.svd(true, true).solve(&right, 1e-9).ok()?;
    let focal = |omega: f64| (omega > 1e-6).then(|| size / omega.sqrt());
    let (fx, fy) = match (focal(solved[0]), focal(solved[1])) {
        (Some(fx), Some(fy)) => (fx, fy),
        (Some(one), None) | (None, Some(one)) => (one, one),
        (None, None) => return None,
    };
    Some(Intrinsics { fx, fy, cx, cy, distortion: [0.0; 5] })
}

/// The board's pose in the camera's frame from its homography.
pub(super) fn pose(homography: &Matrix3<f64>, camera: &Intrinsics) -> Option<Isometry3<f64>> {
    let k = Matrix3::new(camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0);
    let h = k.try_inverse()? * homography;
    let scale = 2.0 / (h.column(0).norm() + h.column(1).norm());
    // In front of the camera.
    let scale = if h[(2, 2)] < 0.0 { -scale } else { scale };
    let (x, y) = (h.column(0) * scale, h.column(1) * scale);
    let svd = Matrix3::from_columns(&[x.into_owned(), y.into_owned(), x.cross(&y)]).svd(true, true);
    let turn = svd.u? * svd.v_t?;
    let rotation = UnitQuaternion::from_rotation_matrix(&Rotation3::from_matrix_unchecked(turn));
    let translation: Vector3<f64> = h.column(2) * scale;
    let pose = Isometry3::from_parts(Translation3::from(translation), rotation);
    pose.to_homogeneous().iter().all(|value| value.is_finite()).then_some(pose)
}
