//! The fit: every view's pose and the camera's intrinsics together, outliers left out.

use super::corners::{Corner, CornerFile};
use super::model::{INTRINSIC, Intrinsics};
use super::zhang;
use nalgebra::{Isometry3, SMatrix, SVector, Translation3, UnitQuaternion, Vector3};

/// Why a camera cannot be fitted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FitError {
    /// Too few usable views.
    #[error("{got} views show 6 corners or more and at least 3 are needed, better 15: take more images")]
    Views {
        /// Views with corners enough.
        got: usize,
    },
    /// The views do not determine the focal length.
    #[error("the views do not determine the focal length: tilt the board by 30° and more, in both directions")]
    Degenerate,
    /// The fit did not settle.
    #[error("the fit did not settle (rms {rms_px:.2} px): are board and square size right?")]
    Diverged {
        /// Root mean square of what was left over, pixels.
        rms_px: f64,
    },
}

/// One view after the fit.
#[derive(Clone, Debug, PartialEq)]
pub struct FittedView {
    /// The image.
    pub image: String,
    /// The board in the camera's frame, m.
    pub camera_from_board: Isometry3<f64>,
    /// Root mean square of the corners kept, pixels.
    pub rms_px: f64,
    /// Corners kept.
    pub kept: usize,
    /// Corners left out as outliers.
    pub rejected: usize,
}

/// A camera with what speaks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraFit {
    /// The camera.
    pub intrinsics: Intrinsics,
    /// One standard deviation of each of fx, fy, cx, cy, k1, k2, p1, p2, k3.
    pub deviations: [f64; INTRINSIC],
    /// Root mean square over all corners kept, pixels.
    pub rms_px: f64,
    /// Largest distance of a corner kept, pixels.
    pub max_px: f64,
    /// Every view used.
    pub views: Vec<FittedView>,
    /// Images left out as a whole, with the reason.
    pub dropped: Vec<(String, &'static str)>,
    /// Share of the image's width and height that the corners span.
    pub coverage: [f64; 2],
    /// What to do better.
    pub warnings: Vec<String>,
}

/// Numbers of a pose.
const POSE: usize = 6;
/// A view needs this many corners: a homography and two more.
const LEAST_CORNERS: usize = 6;
/// A corner further off than this many standard deviations is left out: 1 in 3000 good ones.
const REJECT_SIGMAS: f64 = 4.0;
/// No detector is better than this, so no corner nearer is left out, pixels.
const LEAST_REJECT_PX: f64 = 0.1;
/// A view that loses more than this share of its corners is left out.
const MOST_REJECTED: f64 = 0.4;

/// A view during the fit.
struct Working<'a> {
    image: &'a str,
    corners: &'a [Corner],
    kept: Vec<bool>,
    pose: Isometry3<f64>,
}

impl Working<'_> {
    /// Residuals of the corners kept, pixels; a corner behind the camera counts as far off.
    fn residuals(&self, camera: &Intrinsics) -> impl Iterator<Item = [f64; 2]> {
        self.corners.iter().zip(&self.kept).filter(|(_, kept)| **kept).map(|(corner, _)| self.residual(camera, corner))
    }

    fn residual(&self, camera: &Intrinsics, corner: &Corner) -> [f64; 2] {
        residual(camera, &self.pose, corner)
    }
}

fn residual(camera: &Intrinsics, pose: &Isometry3<f64>, corner: &Corner) -> [f64; 2] {
    match camera.project_board(pose, corner.object_m) {
        Some([u, v]) => [u - corner.pixel[0], v - corner.pixel[1]],
        None => [1e4, 1e4],
    }
}

/// Fits a camera to its corners.
///
/// # Errors
/// [`FitError`] for too few views, views that do not determine the focal length, or a fit that does not settle.
pub fn fit_camera(file: &CornerFile) -> Result<CameraFit, FitError> {
    let mut dropped: Vec<(String, &'static str)> = Vec::new();
    let mut usable = Vec::new();
    for view in &file.views {
        match zhang::homography(&view.corners).filter(|_| view.corners.len() >= LEAST_CORNERS) {
            Some(homography) => usable.push((view, homography)),
            None => dropped.push((view.image.clone(), "fewer than 6 corners, or all on a line")),
        }
    }
    if usable.len() < 3 {
        return Err(FitError::Views { got: usable.len() });
    }
    let homographies: Vec<_> = usable.iter().map(|(_, homography)| *homography).collect();
    let mut camera = zhang::intrinsics(&homographies, file.width, file.height).ok_or(FitError::Degenerate)?;
    let mut views: Vec<Working> = usable
        .iter()
        .filter_map(|(view, homography)| {
            zhang::pose(homography, &camera).map(|pose| Working {
                image: &view.image,
                corners: &view.corners,
                kept: vec![true; view.corners.len()],
                pose,
            })
        })
        .collect();
    // First with weights that let an outlier pull little, then without the outliers, until none is found any more.
    refine(&mut camera, &mut views, Some(1.0));
    for _ in 0..8 {
        let changed = reject(&camera, &mut views, &mut dropped);
        if views.len() < 3 {
            return Err(FitError::Views { got: views.len() });
        }
        refine(&mut camera, &mut views, None);
        if !changed {
            break;
        }
    }
    report(file, camera, &views, dropped)
}

/// Marks corners that lie too far off for the spread of all; whether anything changed.
fn reject(camera: &Intrinsics, views: &mut Vec<Working>, dropped: &mut Vec<(String, &'static str)>) -> bool {
    let mut distances: Vec<f64> = views.iter().flat_map(|v| v.residuals(camera)).map(|[x, y]| x.hypot(y)).collect();
    distances.sort_unstable_by(f64::total_cmp);
    // The median of a Rayleigh distribution is 1.1774 σ.
    let sigma = distances.get(distances.len() / 2).copied().unwrap_or(0.0) / 1.1774;
    let limit = (REJECT_SIGMAS * sigma).max(LEAST_REJECT_PX);
    let mut changed = false;
    for view in views.iter_mut() {
        for index in 0..view.corners.len() {
            let [x, y] = view.residual(camera, &view.corners[index]);
            let keep = x.hypot(y) <= limit;
            changed |= keep != view.kept[index];
            view.kept[index] = keep;
        }
    }
    views.retain(|view| {
        let kept = view.kept.iter().filter(|kept| **kept).count();
        let good = kept >= LEAST_CORNERS && kept as f64 >= (1.0 - MOST_REJECTED) * view.corners.len() as f64;
        if !good {
            dropped.push((view.image.to_owned(), "too many of its corners are outliers"));
        }
        good
    });
    changed
}

/// The normal equations, intrinsics and poses apart, so that poses are eliminated view by view.
struct Normal {
    intrinsic: SMatrix<f64, INTRINSIC, INTRINSIC>,
    intrinsic_right: SVector<f64, INTRINSIC>,
    views: Vec<ViewNormal>,
    cost: f64,
}

struct ViewNormal {
    cross: SMatrix<f64, INTRINSIC, POSE>,
    pose: SMatrix<f64, POSE, POSE>,
    right: SVector<f64, POSE>,
}

/// Cauchy's loss and weight of a squared distance; the plain square without a scale.
fn loss(squared: f64, scale_px: Option<f64>) -> (f64, f64) {
    match scale_px {
        None => (squared, 1.0),
        Some(scale) => {
            let s2 = scale * scale;
            (s2 * (1.0 + squared / s2).ln(), 1.0 / (1.0 + squared / s2))
        }
    }
}

fn cost(camera: &Intrinsics, views: &[Working], scale_px: Option<f64>) -> f64 {
    views.iter().flat_map(|view| view.residuals(camera)).map(|[x, y]| loss(x * x + y * y, scale_px).0).sum()
}

/// The pose turned and moved by a small step in the camera's frame.
fn moved(pose: &Isometry3<f64>, step: &SVector<f64, POSE>) -> Isometry3<f64> {
    let turn = UnitQuaternion::from_scaled_axis(Vector3::new(step[0], step[1], step[2]));
    let shift = Vector3::new(step[3], step[4], step[5]);
    Isometry3::from_parts(Translation3::from(pose.translation.vector + shift), turn * pose.rotation)
}

/// Derivatives of one corner's residual, by central differences: the model is smooth and the steps are far above
/// rounding, so they hold to about nine digits.
fn derivatives(
    camera: &Intrinsics,
    pose: &Isometry3<f64>,
    corner: &Corner,
) -> (SMatrix<f64, 2, INTRINSIC>, SMatrix<f64, 2, POSE>) {
    let slope =
        |[a, b]: [f64; 2], [c, d]: [f64; 2], h: f64| SVector::<f64, 2>::new((a - c) / (2.0 * h), (b - d) / (2.0 * h));
    let values = camera.to_array();
    let of_camera = |index: usize| {
        let h = if index < 4 { 1e-3 } else { 1e-5 };
        let at = |step: f64| {
            let mut values = values;
            values[index] += step;
            residual(&Intrinsics::from_array(values), pose, corner)
        };
        slope(at(h), at(-h), h)
    };
    let of_pose = |index: usize| {
        let h = 1e-6;
        let at = |step: f64| {
            let mut delta = SVector::zeros();
            delta[index] = step;
            residual(camera, &moved(pose, &delta), corner)
        };
        slope(at(h), at(-h), h)
    };
    (
        SMatrix::from_columns(&core::array::from_fn::<_, INTRINSIC, _>(of_camera)),
        SMatrix::from_columns(&core::array::from_fn::<_, POSE, _>(of_pose)),
    )
}

fn normal(camera: &Intrinsics, views: &[Working], scale_px: Option<f64>) -> Normal {
    let mut out =
        Normal { intrinsic: SMatrix::zeros(), intrinsic_right: SVector::zeros(), views: Vec::new(), cost: 0.0 };
    for view in views {
        let mut of_view = ViewNormal { cross: SMatrix::zeros(), pose: SMatrix::zeros(), right: SVector::zeros() };
        for (corner, _) in view.corners.iter().zip(&view.kept).filter(|(_, kept)| **kept) {
            let [x, y] = view.residual(camera, corner);
            let (value, weight) = loss(x * x + y * y, scale_px);
            out.cost += value;
            let left = SVector::<f64, 2>::new(x, y);
            let (of_camera, of_pose) = derivatives(camera, &view.pose, corner);
            out.intrinsic += of_camera.transpose() * of_camera * weight;
            out.intrinsic_right += of_camera.transpose() * left * weight;
            of_view.cross += of_camera.transpose() * of_pose * weight;
            of_view.pose += of_pose.transpose() * of_pose * weight;
            of_view.right += of_pose.transpose() * left * weight;
        }
        out.views.push(of_view);
    }
    out
}

impl Normal {
    /// The intrinsics' own system after the poses are eliminated, damped.
    fn reduced(&self, damping: f64) -> Option<(SMatrix<f64, INTRINSIC, INTRINSIC>, SVector<f64, INTRINSIC>)> {
        let mut left = damped(self.intrinsic, damping);
        let mut right = self.intrinsic_right;
        for view in &self.views {
            let inverse = damped(view.pose, damping).cholesky()?.inverse();
            left -= view.cross * inverse * view.cross.transpose();
            right -= view.cross * inverse * view.right;
        }
        Some((left, right))
    }

    /// The step of Levenberg and Marquardt.
    fn step(&self, damping: f64) -> Option<(SVector<f64, INTRINSIC>, Vec<SVector<f64, POSE>>)> {
        let (left, right) = self.reduced(damping)?;
        let camera = -left.cholesky()?.solve(&right);
        let poses = self
            .views
            .iter()
            .map(|view| {
                let right = view.right + view.cross.transpose() * camera;
                Some(-damped(view.pose, damping).cholesky()?.solve(&right))
            })
            .collect::<Option<_>>()?;
        Some((camera, poses))
    }
}

/// Marquardt's damping: the diagonal grows in proportion.
fn damped<const N: usize>(mut matrix: SMatrix<f64, N, N>, damping: f64) -> SMatrix<f64, N, N> {
    for index in 0..N {
        matrix[(index, index)] += damping * matrix[(index, index)].max(1e-12);
    }
    matrix
}

/// Levenberg–Marquardt to the bottom.
fn refine(camera: &mut Intrinsics, views: &mut [Working], scale_px: Option<f64>) {
    let mut damping = 1e-3;
    for _ in 0..100 {
        let normal = normal(camera, views, scale_px);
        let before = normal.cost;
        let mut gained = None;
        while damping < 1e12 {
            if let Some((of_camera, of_poses)) = normal.step(damping) {
                let mut values = camera.to_array();
                values.iter_mut().zip(of_camera.iter()).for_each(|(value, step)| *value += step);
                let trial = Intrinsics::from_array(values);
                let old: Vec<_> = views.iter().map(|view| view.pose).collect();
                views.iter_mut().zip(&of_poses).for_each(|(view, step)| view.pose = moved(&view.pose, step));
                let after = cost(&trial, views, scale_px);
                if after <= before {
                    *camera = trial;
                    damping = (damping / 10.0).max(1e-12);
                    gained = Some(before - after);
                    break;
                }
                views.iter_mut().zip(old).for_each(|(view, pose)| view.pose = pose);
            }
            damping *= 10.0;
        }
        if gained.is_none_or(|gained| gained <= 1e-12 * before.max(1e-12)) {
            return;
        }
    }
}

fn report(
    file: &CornerFile,
    intrinsics: Intrinsics,
    views: &[Working],
    dropped: Vec<(String, &'static str)>,
) -> Result<CameraFit, FitError> {
    let distances: Vec<f64> =
        views.iter().flat_map(|view| view.residuals(&intrinsics)).map(|[x, y]| x.hypot(y)).collect();
    let rms = |values: &[f64]| (values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64).sqrt();
    let rms_px = rms(&distances);
    let size = f64::from(file.width.max(file.height));
    let sensible = |focal: f64| (0.1 * size..100.0 * size).contains(&focal);
    if !(rms_px < 20.0 && sensible(intrinsics.fx) && sensible(intrinsics.fy)) {
        return Err(FitError::Diverged { rms_px });
    }
    // Cramér and Rao: the inverse of the reduced normal matrix, times the variance of one coordinate.
    let free = (2 * distances.len()).saturating_sub(INTRINSIC + POSE * views.len()).max(1) as f64;
    let variance = distances.iter().map(|distance| distance * distance).sum::<f64>() / free;
    let covariance = normal(&intrinsics, views, None)
        .reduced(0.0)
        .and_then(|(left, _)| left.try_inverse())
        .ok_or(FitError::Degenerate)?;
    let deviations = core::array::from_fn(|index| (variance * covariance[(index, index)]).max(0.0).sqrt());
    let fitted: Vec<FittedView> = views
        .iter()
        .map(|view| {
            let distances: Vec<f64> = view.residuals(&intrinsics).map(|[x, y]| x.hypot(y)).collect();
            FittedView {
                image: view.image.to_owned(),
                camera_from_board: view.pose,
                rms_px: rms(&distances),
                kept: distances.len(),
                rejected: view.corners.len() - distances.len(),
            }
        })
        .collect();
    let coverage = [0, 1].map(|axis| {
        let size = f64::from([file.width, file.height][axis]);
        let pixels = views.iter().flat_map(|view| view.corners).map(|corner| corner.pixel[axis]);
        let (low, high) = pixels.fold((f64::MAX, f64::MIN), |(low, high), pixel| (low.min(pixel), high.max(pixel)));
        (high - low) / size
    });
    let mut fit = CameraFit {
        intrinsics,
        deviations,
        rms_px,
        max_px: distances.iter().copied().fold(0.0, f64::max),
        views: fitted,
        dropped,
        coverage,
        warnings: Vec::new(),
    };
    fit.warnings = warnings(&fit);
    Ok(fit)
}

fn warnings(fit: &CameraFit) -> Vec<String> {
    let mut out = Vec::new();
    let tilt = |view: &FittedView| (view.camera_from_board.rotation * Vector3::z()).z.abs().min(1.0).acos();
    let tilted = fit.views.iter().filter(|view| tilt(view) > 15f64.to_radians()).count();
    if fit.views.len() < 10 {
        out.push(format!("{} views: take 15 or more", fit.views.len()));
    }
    if tilted < 3 {
        out.push(format!("only {tilted} views are tilted by more than 15°: the focal length is hardly determined"));
    }
    if fit.coverage.iter().any(|share| *share < 0.7) {
        let [across, down] = fit.coverage.map(|share| share * 100.0);
        out.push(format!("corners span {across:.0} % across and {down:.0} % down: distortion at the edges is a guess"));
    }
    let [fx, fy] = [(fit.deviations[0], fit.intrinsics.fx), (fit.deviations[1], fit.intrinsics.fy)];
    for (name, (deviation, value)) in [("fx", fx), ("fy", fy)] {
        if deviation > 0.002 * value {
            out.push(format!("{name} is known to {:.1} % only (one σ): add views", 100.0 * deviation / value));
        }
    }
    out
}
