//! Hand-eye calibration: where a camera sits on the gripper, from poses of the gripper and of a board it sees.
//!
//! Solves `A·X = X·B` over all pairs of poses, `A` the motion of the gripper and `B` that of the camera, by three
//! published methods: Tsai and Lenz (IEEE T-RA 5, 1989), Park and Martin (IEEE T-RA 10, 1994), Daniilidis (IJRR 18,
//! 1999). For a camera that stands beside the robot and a board on the gripper give the inverse of the gripper's poses;
//! `X` is then the camera in the base frame.

use nalgebra::{
    DMatrix, DVector, Isometry3, Matrix3, Quaternion, Rotation3, SMatrix, Translation3, UnitQuaternion, Vector3,
    Vector4,
};

/// One moment: where the gripper was and where the camera saw the board.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct PosePair {
    /// Gripper in the base frame, m.
    pub base_from_gripper: Isometry3<f64>,
    /// Board in the camera's frame, m.
    pub camera_from_target: Isometry3<f64>,
}

/// How to solve.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum HandEyeMethod {
    /// Tsai and Lenz: rotation, then translation.
    Tsai,
    /// Park and Martin: rotation on the Lie algebra, then translation.
    Park,
    /// Daniilidis: both at once by dual quaternions.
    Daniilidis,
}

impl HandEyeMethod {
    /// Every method.
    pub const ALL: [Self; 3] = [Self::Park, Self::Tsai, Self::Daniilidis];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tsai => "tsai",
            Self::Park => "park",
            Self::Daniilidis => "daniilidis",
        }
    }
}

/// Why there is no solution.
#[derive(Copy, Clone, Debug, PartialEq, thiserror::Error)]
pub enum HandEyeError {
    /// Too few poses.
    #[error("{0} poses: record at least 3, better 15, turned about different axes")]
    TooFew(usize),
    /// A pose with NaN or infinity.
    #[error("pose {0} is not finite")]
    NonFinite(usize),
    /// The motions do not determine the transform.
    #[error(
        "the motions do not determine the transform: the gripper turned by at most {largest_deg:.1}° and its axes are \
         within {spread:.3} of one line; turn it by 30° and more about two axes at least"
    )]
    Degenerate {
        /// Largest turn between two poses, degrees.
        largest_deg: f64,
        /// As in [`MotionQuality::axis_spread`].
        spread: f64,
    },
}

/// How much the motions say.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct MotionQuality {
    /// Median turn between two poses, rad.
    pub median_turn_rad: f64,
    /// Largest turn between two poses, rad.
    pub largest_turn_rad: f64,
    /// Second eigenvalue of the turns' scatter over the first: 0 for one axis only, 1 where two count alike.
    pub axis_spread: f64,
}

impl MotionQuality {
    /// What to do better, if anything.
    pub fn warning(&self) -> Option<String> {
        if self.axis_spread < 0.05 {
            Some(format!(
                "the gripper turned about nearly one axis (spread {:.3}): the translation along it is hardly determined; add \
                 poses turned about another",
                self.axis_spread
            ))
        } else if self.median_turn_rad < 15f64.to_radians() {
            Some(format!(
                "the gripper turned by only {:.1}° between poses (median): noise weighs more; turn it by 30° and more",
                self.median_turn_rad.to_degrees()
            ))
        } else {
            None
        }
    }
}

/// How well `A·X = X·B` holds over all pairs.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct HandEyeResidual {
    /// Root mean square of the rotation left over, rad.
    pub rotation_rms_rad: f64,
    /// Largest rotation left over, rad.
    pub rotation_max_rad: f64,
    /// Root mean square of the translation left over, m.
    pub translation_rms_m: f64,
    /// Largest translation left over, m.
    pub translation_max_m: f64,
}

/// A solution with what speaks for it.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct HandEye {
    /// Camera in the gripper's frame, m.
    pub gripper_from_camera: Isometry3<f64>,
    /// What is left over.
    pub residual: HandEyeResidual,
    /// What the motions say.
    pub quality: MotionQuality,
}

/// Motions of gripper and camera between two moments.
type Motion = (Isometry3<f64>, Isometry3<f64>);

/// Solves for the camera in the gripper's frame.
///
/// # Errors
/// [`HandEyeError`] for fewer than three poses, a value that is not finite, or motions about one axis only.
pub fn hand_eye(poses: &[PosePair], method: HandEyeMethod) -> Result<HandEye, HandEyeError> {
    if poses.len() < 3 {
        return Err(HandEyeError::TooFew(poses.len()));
    }
    let finite = |pose: &Isometry3<f64>| pose.to_homogeneous().iter().all(|value| value.is_finite());
    if let Some(bad) =
        poses.iter().position(|pose| !(finite(&pose.base_from_gripper) && finite(&pose.camera_from_target)))
    {
        return Err(HandEyeError::NonFinite(bad));
    }
    let motions: Vec<Motion> = poses
        .iter()
        .enumerate()
        .flat_map(|(i, first)| poses[i + 1..].iter().map(move |second| (first, second)))
        .map(|(first, second)| {
            (
                second.base_from_gripper.inverse() * first.base_from_gripper,
                second.camera_from_target * first.camera_from_target.inverse(),
            )
        })
        .collect();
    let quality = quality(&motions);
    let degenerate =
        HandEyeError::Degenerate { largest_deg: quality.largest_turn_rad.to_degrees(), spread: quality.axis_spread };
    if quality.axis_spread < 1e-4 || quality.largest_turn_rad < 0.5f64.to_radians() {
        return Err(degenerate);
    }
    let solved = match method {
        HandEyeMethod::Tsai => tsai(&motions),
        HandEyeMethod::Park => park(&motions),
        HandEyeMethod::Daniilidis => daniilidis(&motions),
    };
    let gripper_from_camera = solved.filter(finite).ok_or(degenerate)?;
    Ok(HandEye { gripper_from_camera, residual: residual(&motions, &gripper_from_camera), quality })
}

fn quality(motions: &[Motion]) -> MotionQuality {
    let turns: Vec<Vector3<f64>> = motions.iter().map(|(gripper, _)| gripper.rotation.scaled_axis()).collect();
    let scatter: Matrix3<f64> = turns.iter().map(|turn| turn * turn.transpose()).sum();
    let mut eigen: Vec<f64> = scatter.symmetric_eigenvalues().iter().copied().collect();
    eigen.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut angles: Vec<f64> = turns.iter().map(Vector3::norm).collect();
    angles.sort_unstable_by(f64::total_cmp);
    MotionQuality {
        median_turn_rad: angles[angles.len() / 2],
        largest_turn_rad: angles[angles.len() - 1],
        axis_spread: if eigen[0] > 0.0 { (eigen[1] / eigen[0]).max(0.0) } else { 0.0 },
    }
}

fn residual(motions: &[Motion], solved: &Isometry3<f64>) -> HandEyeResidual {
    let (mut rotation, mut translation) = (Vec::new(), Vec::new());
    for (gripper, camera) in motions {
        let (left, right) = (gripper * solved, solved * camera);
        rotation.push((left.rotation.inverse() * right.rotation).angle());
        translation.push((left.translation.vector - right.translation.vector).norm());
    }
    let rms = |values: &[f64]| (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt();
    let max = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    HandEyeResidual {
        rotation_rms_rad: rms(&rotation),
        rotation_max_rad: max(&rotation),
        translation_rms_m: rms(&translation),
        translation_max_m: max(&translation),
    }
}

/// Least squares over rows of three.
fn solve_stacked(rows: impl ExactSizeIterator<Item = (Matrix3<f64>, Vector3<f64>)>) -> Option<Vector3<f64>> {
    let mut left = DMatrix::zeros(3 * rows.len(), 3);
    let mut right = DVector::zeros(3 * rows.len());
    for (index, (matrix, vector)) in rows.enumerate() {
        left.fixed_view_mut::<3, 3>(3 * index, 0).copy_from(&matrix);
        right.fixed_rows_mut::<3>(3 * index).copy_from(&vector);
    }
    let solved = left.svd(true, true).solve(&right, 1e-12).ok()?;
    Some(Vector3::new(solved[0], solved[1], solved[2]))
}

/// The translation that goes with a rotation: `(R_A − I)·t = R_X·t_B − t_A`.
fn translation(motions: &[Motion], rotation: &UnitQuaternion<f64>) -> Option<Vector3<f64>> {
    solve_stacked(motions.iter().map(|(gripper, camera)| {
        let turn = gripper.rotation.to_rotation_matrix().into_inner();
        (turn - Matrix3::identity(), rotation * camera.translation.vector - gripper.translation.vector)
    }))
}

/// The quaternion of a rotation with a scalar part that is not negative.
fn positive(rotation: &UnitQuaternion<f64>) -> Quaternion<f64> {
    if rotation.w < 0.0 { -rotation.into_inner() } else { rotation.into_inner() }
}

/// Modified Rodrigues length, `2·sin(θ/2)`, below which a turn says too little of the axis for Tsai's linear system:
/// 17.25°. What OpenCV 4.14 leaves out as well, found by comparing its answers.
const TSAI_LEAST_TURN: f64 = 0.3;

fn tsai(motions: &[Motion]) -> Option<Isometry3<f64>> {
    let rodrigues = |rotation: &UnitQuaternion<f64>| 2.0 * positive(rotation).imag();
    let far: Vec<Motion> = motions
        .iter()
        .filter(|(gripper, camera)| {
            rodrigues(&gripper.rotation).norm().min(rodrigues(&camera.rotation).norm()) >= TSAI_LEAST_TURN
        })
        .copied()
        .collect();
    let motions = if far.len() >= 3 { &far } else { motions };
    // Tsai and Lenz, eqs. 12 to 14.
    let solved = solve_stacked(motions.iter().map(|(gripper, camera)| {
        let (a, b) = (rodrigues(&gripper.rotation), rodrigues(&camera.rotation));
        ((a + b).cross_matrix(), b - a)
    }))?;
    let vector = solved / (1.0 + solved.norm_squared()).sqrt();
    let scalar = (1.0 - vector.norm_squared()).max(0.0).sqrt();
    let rotation = UnitQuaternion::from_quaternion(Quaternion::from_parts(scalar, vector));
    Some(Isometry3::from_parts(translation(motions, &rotation)?.into(), rotation))
}

fn park(motions: &[Motion]) -> Option<Isometry3<f64>> {
    // Park and Martin, eq. 19: X = (MᵀM)^(−1/2)·Mᵀ, M the sum of log(B)·log(A)ᵀ; the polar factor of Mᵀ by its SVD.
    let sum: Matrix3<f64> = motions
        .iter()
        .map(|(gripper, camera)| camera.rotation.scaled_axis() * gripper.rotation.scaled_axis().transpose())
        .sum();
    let svd = sum.transpose().svd(true, true);
    let (u, v_t) = (svd.u?, svd.v_t?);
    // With noise the nearest orthogonal matrix may be a reflection: the direction that says least is turned round.
    let mut matrix = u * v_t;
    if matrix.determinant() < 0.0 {
        matrix = u * Matrix3::from_diagonal(&Vector3::new(1.0, 1.0, -1.0)) * v_t;
    }
    let rotation = UnitQuaternion::from_rotation_matrix(&Rotation3::from_matrix_unchecked(matrix));
    Some(Isometry3::from_parts(translation(motions, &rotation)?.into(), rotation))
}

/// Real and dual part of a motion.
fn dual_quaternion(motion: &Isometry3<f64>) -> (Quaternion<f64>, Quaternion<f64>) {
    let real = positive(&motion.rotation);
    (real, Quaternion::from_imag(motion.translation.vector) * real * 0.5)
}

fn daniilidis(motions: &[Motion]) -> Option<Isometry3<f64>> {
    // Daniilidis, eqs. 31 to 35: the solution lies in the span of the two right singular vectors of least value.
    let mut system = DMatrix::zeros(6 * motions.len().max(2), 8);
    for (index, (gripper, camera)) in motions.iter().enumerate() {
        let ((a, a_dual), (b, b_dual)) = (dual_quaternion(gripper), dual_quaternion(camera));
        let block = |a: &Quaternion<f64>, b: &Quaternion<f64>| {
            let mut block = SMatrix::<f64, 3, 4>::zeros();
            block.set_column(0, &(a.imag() - b.imag()));
            block.fixed_view_mut::<3, 3>(0, 1).copy_from(&(a.imag() + b.imag()).cross_matrix());
            block
        };
        let (real, dual) = (block(&a, &b), block(&a_dual, &b_dual));
        system.fixed_view_mut::<3, 4>(6 * index, 0).copy_from(&real);
        system.fixed_view_mut::<3, 4>(6 * index + 3, 0).copy_from(&dual);
        system.fixed_view_mut::<3, 4>(6 * index + 3, 4).copy_from(&real);
    }
    // Singular values come sorted, largest first.
    let v_t = system.svd(false, true).v_t?;
    let part = |row: usize, from: usize| Vector4::from_fn(|i, _| v_t[(row, from + i)]);
    let ((u1, v1), (u2, v2)) = ((part(6, 0), part(6, 4)), (part(7, 0), part(7, 4)));
    let (a, b, c) = (u1.dot(&v1), u1.dot(&v2) + u2.dot(&v1), u2.dot(&v2));
    let root = (b * b - 4.0 * a * c).max(0.0).sqrt();
    let norm = |s: f64| s * s * u1.dot(&u1) + 2.0 * s * u1.dot(&u2) + u2.dot(&u2);
    // Both roots of a·s² + b·s + c in the form that does not cancel.
    let q = -0.5 * (b + if b < 0.0 { -root } else { root });
    let s = [q / a, c / q].into_iter().filter(|s| s.is_finite()).max_by(|x, y| norm(*x).total_cmp(&norm(*y)))?;
    let scale = norm(s).recip().sqrt();
    let (real, dual) = ((u1 * s + u2) * scale, (v1 * s + v2) * scale);
    let of = |v: Vector4<f64>| Quaternion::new(v[0], v[1], v[2], v[3]);
    let (real, dual) = (of(real), of(dual));
    let moved = (dual * real.conjugate() * 2.0).imag();
    Some(Isometry3::from_parts(Translation3::from(moved), UnitQuaternion::from_quaternion(real)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(turn: impl Fn(f64) -> Vector3<f64>) -> (Isometry3<f64>, Vec<PosePair>) {
        let x = Isometry3::new(Vector3::new(0.03, -0.05, 0.08), Vector3::new(0.2, -0.7, 1.1));
        let board = Isometry3::new(Vector3::new(0.4, 0.1, 0.0), Vector3::new(0.1, 0.0, 0.5));
        let poses = (0..12).map(|i| {
            let i = f64::from(i);
            let gripper = Isometry3::new(Vector3::new(0.3, 0.05 * i.sin(), 0.3 + 0.02 * i), turn(i));
            PosePair { base_from_gripper: gripper, camera_from_target: (gripper * x).inverse() * board }
        });
        (x, poses.collect())
    }

    #[test]
    fn exact_poses_give_the_exact_transform_by_every_method() {
        let (x, poses) = exact(|i| Vector3::new(0.5 * i.sin(), 0.6 * (1.7 * i).cos(), 0.3 * i.cos()));
        for method in HandEyeMethod::ALL {
            let solved = hand_eye(&poses, method).unwrap();
            let apart = (solved.gripper_from_camera.to_homogeneous() - x.to_homogeneous()).abs().max();
            assert!(apart < 1e-9, "{} {apart}", method.name());
            assert!(solved.residual.translation_max_m < 1e-9 && solved.residual.rotation_max_rad < 1e-7);
            assert_eq!(solved.quality.warning(), None);
        }
    }

    #[test]
    fn motion_about_one_axis_is_refused_and_nearly_so_warned_of() {
        let (_, poses) = exact(|i| Vector3::new(0.0, 0.3 * i.sin(), 0.0));
        let error = hand_eye(&poses, HandEyeMethod::Park).unwrap_err();
        assert!(error.to_string().contains("two axes"), "{error}");
        let (_, poses) = exact(|i| Vector3::new(0.04 * i.cos(), 0.6 * i.sin(), 0.0));
        let warning = hand_eye(&poses, HandEyeMethod::Park).unwrap().quality.warning();
        assert!(warning.unwrap().contains("one axis"));
        assert_eq!(hand_eye(&poses[..2], HandEyeMethod::Tsai), Err(HandEyeError::TooFew(2)));
        let mut broken = poses;
        broken[4].base_from_gripper.translation.x = f64::NAN;
        assert_eq!(hand_eye(&broken, HandEyeMethod::Tsai), Err(HandEyeError::NonFinite(4)));
    }
}
