//! Cameras fitted to synthetic boards of known cameras.
#![allow(clippy::unwrap_used)]

use endplate_calibration::camera::{Corner, CornerFile, FitError, Intrinsics, View, fit_camera};
use nalgebra::{Isometry3, Point3, Vector3};

/// Uniform numbers of a fixed generator.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn within(&mut self, half: f64) -> f64 {
        (2.0 * self.uniform() - 1.0) * half
    }

    /// About normal, by twelve uniforms.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

fn board(camera: &Intrinsics, size: (u32, u32), count: usize, noise_px: f64, outliers: f64, tilt: f64) -> CornerFile {
    let mut random = Random(7);
    let mut views = Vec::new();
    while views.len() < count {
        let turn = Vector3::new(random.within(tilt), random.within(tilt), random.within(0.3));
        let pose =
            Isometry3::new(Vector3::new(random.within(0.22), random.within(0.16), 0.36 + random.within(0.12)), turn);
        let mut corners = Vec::new();
        for index in 0..54 {
            let (x, y) = (f64::from(index % 9 - 4) * 0.025, f64::from(index / 9) * 0.025 - 0.0625);
            let Some([u, v]) = camera.project(&(pose * Point3::new(x, y, 0.0))) else { continue };
            let far = if random.uniform() < outliers { 3.0 + 20.0 * random.uniform() } else { 0.0 };
            let pixel = [u + noise_px * random.normal() + far, v + noise_px * random.normal() - far];
            if (0.0..f64::from(size.0) - 1.0).contains(&pixel[0]) && (0.0..f64::from(size.1) - 1.0).contains(&pixel[1])
            {
                corners.push(Corner { object_m: [x, y], pixel });
            }
        }
        if corners.len() > 25 {
            views.push(View { image: format!("{}.png", views.len()), corners });
        }
    }
    CornerFile { width: size.0, height: size.1, views }
}

const CAMERA: Intrinsics =
    Intrinsics { fx: 612.3, fy: 609.8, cx: 326.4, cy: 236.9, distortion: [-0.28, 0.09, 0.0012, -0.0007, 0.01] };

fn largest_share(fitted: &Intrinsics, true_one: &Intrinsics) -> f64 {
    [(fitted.fx, true_one.fx), (fitted.fy, true_one.fy), (fitted.cx, true_one.cx), (fitted.cy, true_one.cy)]
        .into_iter()
        .map(|(fitted, exact)| (fitted / exact - 1.0).abs())
        .fold(0.0, f64::max)
}

#[test]
fn exact_corners_give_the_exact_camera() {
    let fit = fit_camera(&board(&CAMERA, (640, 480), 12, 0.0, 0.0, 0.7)).unwrap();
    assert!(largest_share(&fit.intrinsics, &CAMERA) < 1e-7, "{fit:?}");
    for (fitted, exact) in fit.intrinsics.distortion.iter().zip(CAMERA.distortion) {
        assert!((fitted - exact).abs() < 1e-5, "{:?}", fit.intrinsics);
    }
    assert!(fit.rms_px < 1e-6);
}

#[test]
fn noisy_corners_with_outliers_give_the_intrinsics_within_0_2_percent() {
    let file = board(&CAMERA, (640, 480), 30, 0.15, 0.04, 0.7);
    let fit = fit_camera(&file).unwrap();
    assert!(largest_share(&fit.intrinsics, &CAMERA) < 2e-3, "{fit:?}");
    let rejected: usize = fit.views.iter().map(|view| view.rejected).sum();
    let all: usize = file.views.iter().map(|view| view.corners.len()).sum();
    assert!(rejected * 100 > all && rejected * 100 < 6 * all, "{rejected} of {all}");
    assert!((0.15..0.28).contains(&fit.rms_px), "{}", fit.rms_px);
    // The deviations are of the right size: no error is beyond four of them.
    let errors = [fit.intrinsics.fx - CAMERA.fx, fit.intrinsics.fy - CAMERA.fy, fit.intrinsics.cx - CAMERA.cx];
    for (error, deviation) in errors.iter().zip(fit.deviations) {
        assert!(error.abs() < 4.0 * deviation && deviation < 2.0, "{error} {deviation}");
    }
}

#[test]
fn views_that_say_too_little_are_refused_or_warned_of() {
    let mut few = board(&CAMERA, (640, 480), 3, 0.1, 0.0, 0.7);
    few.views.truncate(2);
    assert_eq!(fit_camera(&few), Err(FitError::Views { got: 2 }));
    let flat = fit_camera(&board(&CAMERA, (640, 480), 12, 0.2, 0.0, 0.0));
    let said = match flat {
        Err(error) => error.to_string(),
        Ok(fit) => fit.warnings.join("; "),
    };
    assert!(said.contains("tilt"), "{said}");
    let text = serde_json::to_string(&few).unwrap();
    let bad = text.replacen("\"pixel\":[", "\"pixel\":[9000.0,1.0],\"x\":[", 1);
    assert!(CornerFile::from_json(&bad, "corners.json").unwrap_err().to_string().contains("unknown field `x`"));
    let mut outside = few;
    outside.views[0].corners[3].pixel = [641.5, 2.0];
    let text = serde_json::to_string(&outside).unwrap();
    let error = CornerFile::from_json(&text, "corners.json").unwrap_err().to_string();
    assert!(error.contains("views[\"0.png\"].corners[3]"), "{error}");
}
