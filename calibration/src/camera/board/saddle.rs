//! Saddle points of the brightness, to a fraction of a pixel.

use super::grey::Grey;
use core::f64::consts::PI;
use nalgebra::{SMatrix, SVector};

/// A candidate for a chessboard corner.
#[derive(Copy, Clone, Debug)]
pub(super) struct Saddle {
    /// Where it is, pixels.
    pub(super) at: [f64; 2],
    /// The two directions of its edges, each in 0..π, the smaller first, from x towards y.
    pub(super) edges: [f64; 2],
}

/// Blur before curvature is looked at, pixels.
const SIGMA: f64 = 1.5;
/// Half the window of the fit, pixels, and the spread of its weights.
const REACH: i32 = 4;
const WEIGHT_SIGMA: f64 = 2.0;
/// A saddle weaker than this share of the strongest is none: a tenth of the contrast.
const WEAKEST: f64 = 0.01;
/// No image needs more candidates than this.
const MOST: usize = 4000;

/// Every saddle of an image, strongest first.
pub(super) fn find(image: &Grey) -> Vec<Saddle> {
    let smooth = image.blurred(SIGMA);
    let (width, height) = (image.width(), image.height());
    let margin = REACH as usize + 1;
    if width < 4 * margin || height < 4 * margin {
        return Vec::new();
    }
    let mut strength = vec![0.0; width * height];
    for y in 1..height - 1 {
        for x in 1..width - 1 {
            let p = |dx: usize, dy: usize| smooth.pixel(x + dx - 1, y + dy - 1);
            let (xx, yy) = (p(2, 1) - 2.0 * p(1, 1) + p(0, 1), p(1, 2) - 2.0 * p(1, 1) + p(1, 0));
            let xy = (p(2, 2) - p(0, 2) - p(2, 0) + p(0, 0)) / 4.0;
            strength[y * width + x] = xy * xy - xx * yy;
        }
    }
    let strongest = strength.iter().copied().fold(0.0, f64::max);
    let mut peaks = Vec::new();
    for y in margin..height - margin {
        for x in margin..width - margin {
            let here = strength[y * width + x];
            if here <= WEAKEST * strongest {
                continue;
            }
            let is_peak = (y - 2..=y + 2).all(|v| {
                (x - 2..=x + 2).all(|u| {
                    let there = strength[v * width + u];
                    there < here || (there == here && (v, u) >= (y, x))
                })
            });
            if is_peak {
                peaks.push((here, x, y));
            }
        }
    }
    peaks.sort_by(|a, b| b.0.total_cmp(&a.0));
    peaks.truncate(MOST);
    let Some(fit) = Fit::new() else { return Vec::new() };
    let found = peaks.iter().filter_map(|&(_, x, y)| fit.refine(&smooth, [x as f64, y as f64]));
    // Two peaks of one corner end in one place.
    let mut saddles: Vec<Saddle> = Vec::new();
    for saddle in found {
        let is_new = saddles.iter().all(|other| (other.at[0] - saddle.at[0]).hypot(other.at[1] - saddle.at[1]) > 2.0);
        if is_new {
            saddles.push(saddle);
        }
    }
    saddles
}

/// A weighted least-squares fit of `a·x² + b·xy + c·y² + d·x + e·y + g` to the window around a point.
struct Fit {
    inverse: SMatrix<f64, 6, 6>,
}

fn terms(x: f64, y: f64) -> SVector<f64, 6> {
    SVector::from([x * x, x * y, y * y, x, y, 1.0])
}

fn weight(x: f64, y: f64) -> f64 {
    (-(x * x + y * y) / (2.0 * WEIGHT_SIGMA * WEIGHT_SIGMA)).exp()
}

impl Fit {
    fn new() -> Option<Self> {
        let mut normal = SMatrix::<f64, 6, 6>::zeros();
        for (x, y) in window() {
            let t = terms(x, y);
            normal += t * t.transpose() * weight(x, y);
        }
        normal.try_inverse().map(|inverse| Self { inverse })
    }

    /// The saddle near a peak; `None` where there is none, or too far off.
    fn refine(&self, image: &Grey, start: [f64; 2]) -> Option<Saddle> {
        let mut at = start;
        for _ in 0..10 {
            let mut right = SVector::<f64, 6>::zeros();
            for (x, y) in window() {
                right += terms(x, y) * (weight(x, y) * image.at([at[0] + x, at[1] + y])?);
            }
            let [[a, b, c, d, e, _]] = (self.inverse * right).data.0;
            let determinant = 4.0 * a * c - b * b;
            if determinant >= 0.0 {
                return None;
            }
            let step = [(b * e - 2.0 * c * d) / determinant, (b * d - 2.0 * a * e) / determinant];
            at = [at[0] + step[0], at[1] + step[1]];
            if (at[0] - start[0]).hypot(at[1] - start[1]) > f64::from(REACH) / 2.0 {
                return None;
            }
            if step[0].hypot(step[1]) < 1e-3 {
                return Some(Saddle { at, edges: asymptotes(a, b, c) });
            }
        }
        None
    }
}

fn window() -> impl Iterator<Item = (f64, f64)> {
    (-REACH..=REACH).flat_map(|y| (-REACH..=REACH).map(move |x| (f64::from(x), f64::from(y))))
}

/// Directions in which `a·x² + b·xy + c·y²` is 0.
fn asymptotes(a: f64, b: f64, c: f64) -> [f64; 2] {
    // a·cos² + b·cos·sin + c·sin² = (a+c)/2 + R·cos(2θ − φ).
    let (half, phase) = (((a - c) / 2.0).hypot(b / 2.0), (b / 2.0).atan2((a - c) / 2.0));
    let turn = (-(a + c) / 2.0 / half).clamp(-1.0, 1.0).acos();
    let mut edges = [(phase + turn) / 2.0, (phase - turn) / 2.0].map(|angle: f64| angle.rem_euclid(PI));
    edges.sort_by(f64::total_cmp);
    edges
}
