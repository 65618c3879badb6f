//! A small CPU rasteriser: near clipping, z-buffer, perspective-correct checker floor, flat
//! shading, 2×2 supersampling, and a buffer that says which object covers which sample.
//!
//! Drawing a 96×96 image takes about half a millisecond and does not allocate once the renderer
//! has seen its largest scene.

use crate::look::Look;
use crate::mjcf_camera::MountedCamera;
use crate::model::{Surface, Triangle};

/// Samples per pixel in each direction.
const SAMPLES: usize = 2;
/// Nothing nearer than this is drawn, m.
const NEAR_M: f32 = 0.01;
/// Edge of a floor square, m.
const SQUARE_M: f32 = 1.0 / 12.0;

const LABEL_NOTHING: u8 = 0;
const LABEL_FLOOR: u8 = 1;
const LABEL_ARM: u8 = 2;
const LABEL_CUBE: u8 = 3;

type V3 = [f32; 3];

fn sub(a: V3, b: V3) -> V3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}
fn dot(a: V3, b: V3) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}
fn cross(a: V3, b: V3) -> V3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}
fn along(a: V3, b: V3, s: f32) -> V3 {
    [a[0] + b[0] * s, a[1] + b[1] * s, a[2] + b[2] * s]
}
fn unit(a: V3) -> V3 {
    let length = dot(a, a).sqrt();
    a.map(|x| x / length)
}

/// Added to a number below 2²² it leaves the nearest whole number, its lowest bit in the mantissa's lowest.
const WHOLE: f32 = 12_582_912.0;

/// A number whose lowest bit is that of `x.floor()`, for |x| < 2²². A few operations that vectorise, where baseline
/// x86-64 calls a library.
fn floor_bits(x: f32) -> u32 {
    let nearest = (x + WHOLE) - WHOLE;
    let floor = if nearest > x { nearest - 1.0 } else { nearest };
    (floor + WHOLE).to_bits()
}

/// Pose of a body in the base frame.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct BodyPose {
    /// Rotation, rows.
    pub rotation: [[f32; 3]; 3],
    /// Translation, m.
    pub translation: [f32; 3],
}

impl BodyPose {
    /// The base frame itself.
    pub const IDENTITY: Self =
        Self { rotation: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], translation: [0.0; 3] };

    fn turn(&self, v: V3) -> V3 {
        self.rotation.map(|row| dot(row, v))
    }

    fn place(&self, p: V3) -> V3 {
        along(self.turn(p), self.translation, 1.0)
    }
}

/// A camera at one instant, ready to project.
#[derive(Copy, Clone, Debug)]
pub struct View {
    eye: V3,
    right: V3,
    up: V3,
    forward: V3,
    /// Focal length, pixels.
    focal: f32,
    width: f32,
    height: f32,
}

impl View {
    /// The view of camera `index` of the model, displaced as `look` says. `poses` are the bodies'.
    pub fn new(
        camera: &MountedCamera,
        index: usize,
        poses: &[BodyPose],
        look: &Look,
        (width, height): (u32, u32),
    ) -> Self {
        let body = poses.get(camera.body).copied().unwrap_or(BodyPose::IDENTITY);
        let jitter = look.cameras.get(index).copied().unwrap_or_default();
        let (right, up) = (body.turn(camera.right), body.turn(camera.up));
        let back = cross(right, up);
        let mut eye = body.place(camera.position_m);
        for (axis, shift) in [right, up, back].into_iter().zip(jitter.shift_m) {
            eye = along(eye, axis, shift);
        }
        // Small turns: first order, then made orthonormal again.
        let [about_right, about_up, about_back] = jitter.turn_rad;
        let turned_right = unit(along(along(right, up, about_back), back, -about_up));
        let turned_up = along(along(up, right, -about_back), back, about_right);
        let turned_up = unit(along(turned_up, turned_right, -dot(turned_up, turned_right)));
        let turned_back = cross(turned_right, turned_up);
        let half = (camera.fovy_deg + jitter.fovy_deg).to_radians() / 2.0;
        Self {
            eye,
            right: turned_right,
            up: turned_up,
            forward: turned_back.map(|x| -x),
            focal: height as f32 / 2.0 / half.tan(),
            width: width as f32,
            height: height as f32,
        }
    }

    fn camera_frame(&self, p: V3) -> V3 {
        let d = sub(p, self.eye);
        [dot(d, self.right), dot(d, self.up), dot(d, self.forward)]
    }

    /// Pixel (u right, v down, centres at +0.5) of a point in the base frame, m; `None` when it is
    /// not in front of the camera. The pixel may lie outside the image.
    pub fn project(&self, point_m: [f32; 3]) -> Option<[f32; 2]> {
        let p = self.camera_frame(point_m);
        (p[2] > NEAR_M)
            .then(|| [self.width / 2.0 + p[0] * self.focal / p[2], self.height / 2.0 - p[1] * self.focal / p[2]])
    }
}

/// A corner after clipping: camera frame, and its place on the floor.
type Corner = (V3, [f32; 2]);

/// Draws images of one size; keeps its buffers.
#[derive(Clone, Debug)]
pub struct Renderer {
    width: usize,
    height: usize,
    /// What each sample shows: red, green, blue and label, from the lowest byte up. One number, so that writing a line
    /// vectorises.
    shown: Vec<u32>,
    /// Inverse depth of each sample, 1/m; 0 is infinitely far.
    nearness: Vec<f32>,
    line: Line,
    view: Option<View>,
}

impl Renderer {
    /// A renderer of `width` × `height` pixels.
    pub fn new(width: u32, height: u32) -> Self {
        let (width, height) = (width as usize, height as usize);
        let samples = width * height * SAMPLES * SAMPLES;
        Self {
            width,
            height,
            shown: vec![sample([0; 3], LABEL_NOTHING); samples],
            nearness: vec![0.0; samples],
            line: Line::new(width * SAMPLES),
            view: None,
        }
    }

    /// Size in pixels, (width, height).
    pub fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// Draws into `image`, `[h, w, 3]` u8 RGB row-major.
    ///
    /// # Panics
    /// When `image` is not width·height·3 bytes long.
    pub fn render(&mut self, triangles: &[Triangle], poses: &[BodyPose], view: View, look: &Look, image: &mut [u8]) {
        assert_eq!(image.len(), self.width * self.height * 3, "image buffer has another size");
        self.clear(look);
        for triangle in triangles {
            let Some(pose) = poses.get(triangle.body) else { continue };
            let corners = triangle.corners.map(|c| pose.place(c));
            let normal = pose.turn(triangle.normal);
            if dot(normal, sub(corners[0], view.eye)) >= 0.0 {
                continue; // seen from behind
            }
            let (label, base, second) = match triangle.surface {
                Surface::Floor => (LABEL_FLOOR, look.floor_rgb[0], Some(look.floor_rgb[1])),
                Surface::Arm => {
                    let tinted = core::array::from_fn(|i| triangle.rgb[i] * look.arm_tint[i]);
                    (LABEL_ARM, tinted, None)
                }
                Surface::Cube(index) => (LABEL_CUBE + index, look.cube_rgb[usize::from(index)], None),
            };
            let light = look.ambient
                + look.diffuse * dot(normal, look.light_direction).max(0.0)
                + look.headlight * -dot(normal, view.forward).min(0.0);
            let lit = |rgb: V3| sample(rgb.map(|c| (c * light).clamp(0.0, 1.0) * 255.0).map(|c| c as u8), label);
            let paint = Paint { first: lit(base), second: second.map(lit) };
            self.draw(&view, corners, &paint);
        }
        self.view = Some(view);
        self.resolve(image);
    }

    fn clear(&mut self, look: &Look) {
        self.nearness.fill(0.0);
        let [top, bottom] = look.background_rgb;
        let rows = self.height * SAMPLES;
        for (y, row) in self.shown.chunks_exact_mut(self.width * SAMPLES).enumerate() {
            let share = y as f32 / rows as f32;
            let rgb = core::array::from_fn(|i| ((top[i] + (bottom[i] - top[i]) * share).clamp(0.0, 1.0) * 255.0) as u8);
            row.fill(sample(rgb, LABEL_NOTHING));
        }
    }

    /// Clips against the near plane and fills the one or two triangles that remain.
    fn draw(&mut self, view: &View, corners: [V3; 3], paint: &Paint) {
        let seen = corners.map(|c| view.camera_frame(c));
        let mut polygon: [Corner; 4] = [([0.0; 3], [0.0; 2]); 4];
        let mut count = 0;
        for i in 0..3 {
            let j = (i + 1) % 3;
            let (a, b) = (seen[i], seen[j]);
            let (on_a, on_b) = ([corners[i][0], corners[i][1]], [corners[j][0], corners[j][1]]);
            if a[2] >= NEAR_M {
                polygon[count] = (a, on_a);
                count += 1;
            }
            if (a[2] >= NEAR_M) != (b[2] >= NEAR_M) {
                let s = (NEAR_M - a[2]) / (b[2] - a[2]);
                let mix = |x: f32, y: f32| x + (y - x) * s;
                polygon[count] =
                    ([mix(a[0], b[0]), mix(a[1], b[1]), NEAR_M], [mix(on_a[0], on_b[0]), mix(on_a[1], on_b[1])]);
                count += 1;
            }
        }
        for m in 1..count.saturating_sub(1) {
            self.fill(view, [polygon[0], polygon[m], polygon[m + 1]], paint);
        }
    }

    fn fill(&mut self, view: &View, corners: [Corner; 3], paint: &Paint) {
        let scale = SAMPLES as f32;
        let (width, height) = (self.width * SAMPLES, self.height * SAMPLES);
        // x, y in samples; 1/z and floor coordinates over z are linear on the screen.
        let p: [[f32; 5]; 3] = corners.map(|(c, floor)| {
            let near = 1.0 / c[2];
            [
                (view.width / 2.0 + c[0] * view.focal * near) * scale,
                (view.height / 2.0 - c[1] * view.focal * near) * scale,
                near,
                floor[0] * near,
                floor[1] * near,
            ]
        });
        let area = (p[1][0] - p[0][0]) * (p[2][1] - p[0][1]) - (p[1][1] - p[0][1]) * (p[2][0] - p[0][0]);
        if area.abs() < 1e-6 {
            return;
        }
        let inverse_area = 1.0 / area;
        let span = |axis: usize, limit: usize| -> core::ops::Range<usize> {
            let low = p[0][axis].min(p[1][axis]).min(p[2][axis]).max(0.0);
            let high = p[0][axis].max(p[1][axis]).max(p[2][axis]).min(limit as f32);
            if low >= high { 0..0 } else { low as usize..(high.ceil() as usize).min(limit) }
        };
        let (columns, rows) = (span(0, width), span(1, height));
        let step0 = (p[1][1] - p[2][1]) * inverse_area;
        let step1 = (p[2][1] - p[0][1]) * inverse_area;
        // The length every slice of a line is cut to, so that the loops below run without bounds checks and vectorise.
        let length = columns.len();
        let Line { b0: at0, b1: at1, near: now_near, is_odd } = &mut self.line;
        let (at0, at1) = (&mut at0[..length], &mut at1[..length]);
        let (now_near, is_odd) = (&mut now_near[..length], &mut is_odd[..length]);
        for y in rows {
            let (fx, fy) = (columns.start as f32 + 0.5, y as f32 + 0.5);
            let mut b0 = ((p[2][0] - p[1][0]) * (fy - p[1][1]) - (p[2][1] - p[1][1]) * (fx - p[1][0])) * inverse_area;
            let mut b1 = ((p[0][0] - p[2][0]) * (fy - p[2][1]) - (p[0][1] - p[2][1]) * (fx - p[2][0])) * inverse_area;
            for (at0, at1) in at0.iter_mut().zip(at1.iter_mut()) {
                (*at0, *at1) = (b0, b1);
                b0 += step0;
                b1 += step1;
            }
            let line = y * width + columns.start..y * width + columns.end;
            let nearness = &mut self.nearness[line.clone()][..length];
            let mut is_seen = false;
            for i in 0..length {
                let (b0, b1) = (at0[i], at1[i]);
                let b2 = 1.0 - b0 - b1;
                let near = b0 * p[0][2] + b1 * p[1][2] + b2 * p[2][2];
                let is_hit = (b0 >= 0.0) & (b1 >= 0.0) & (b2 >= 0.0) & (near > nearness[i]);
                now_near[i] = if is_hit { near } else { 0.0 };
                is_seen |= is_hit;
            }
            if !is_seen {
                continue;
            }
            if paint.second.is_some() {
                for i in 0..length {
                    let (b0, b1) = (at0[i], at1[i]);
                    let b2 = 1.0 - b0 - b1;
                    let on = |k: usize| {
                        let over_z = b0 * p[0][k] + b1 * p[1][k] + b2 * p[2][k];
                        floor_bits(over_z / now_near[i] / SQUARE_M)
                    };
                    is_odd[i] = (on(3) ^ on(4)) & 1;
                }
            }
            let second = paint.second.unwrap_or(paint.first);
            let shown = &mut self.shown[line][..length];
            for i in 0..length {
                // Words are mixed by masks: of a choice the compiler makes a jump, and then nothing vectorises.
                let is_hit = u32::from(now_near[i] > 0.0).wrapping_neg();
                let is_second = (is_odd[i] & 1).wrapping_neg();
                let here = (paint.first & !is_second) | (second & is_second);
                shown[i] = (here & is_hit) | (shown[i] & !is_hit);
                nearness[i] = nearness[i].max(now_near[i]);
            }
        }
    }

    /// Averages the samples of each pixel.
    fn resolve(&self, image: &mut [u8]) {
        // Red and blue are summed in the two halves of a word, green in another.
        const HALVES: u32 = 0x00ff_00ff;
        let stride = self.width * SAMPLES;
        for (row, lines) in image.chunks_exact_mut(self.width * 3).zip(self.shown.chunks_exact(stride * SAMPLES)) {
            let (upper, lower) = lines.split_at(stride);
            let pairs = upper.chunks_exact(SAMPLES).zip(lower.chunks_exact(SAMPLES));
            for (pixel, (upper, lower)) in row.chunks_exact_mut(3).zip(pairs) {
                let sum = |part: fn(u32) -> u32| part(upper[0]) + part(upper[1]) + part(lower[0]) + part(lower[1]);
                let red_blue = ((sum(|shown| shown & HALVES) + 0x0002_0002) / 4) & HALVES;
                let green = (sum(|shown| (shown >> 8) & 0xff) + 2) / 4;
                pixel.copy_from_slice(&[red_blue as u8, green as u8, (red_blue >> 16) as u8]);
            }
        }
    }

    /// Pixel of a cube's centre in the last image, and whether that cube covers it there (inside the
    /// image, and nothing else in front). `None` before the first image or behind the camera.
    pub fn locate_cube(&self, cube: u8, centre_m: [f32; 3]) -> Option<([f32; 2], bool)> {
        let [u, v] = self.view?.project(centre_m)?;
        let inside = u >= 0.0 && v >= 0.0 && u < self.width as f32 && v < self.height as f32;
        let is_visible = inside && {
            let (x, y) = ((u * SAMPLES as f32) as usize, (v * SAMPLES as f32) as usize);
            label_of(self.shown[y * self.width * SAMPLES + x]) == LABEL_CUBE + cube
        };
        Some(([u, v], is_visible))
    }

    /// Share of the last image covered by this cube, in pixels.
    pub fn cube_pixels(&self, cube: u8) -> f32 {
        let samples = self.shown.iter().filter(|&&shown| label_of(shown) == LABEL_CUBE + cube).count();
        samples as f32 / (SAMPLES * SAMPLES) as f32
    }
}

/// One line of one triangle: barycentric coordinates, inverse depth where it is to be seen (0 elsewhere), and on which
/// of the two kinds of floor squares.
#[derive(Clone, Debug)]
struct Line {
    b0: Vec<f32>,
    b1: Vec<f32>,
    near: Vec<f32>,
    is_odd: Vec<u32>,
}

impl Line {
    fn new(samples: usize) -> Self {
        Self { b0: vec![0.0; samples], b1: vec![0.0; samples], near: vec![0.0; samples], is_odd: vec![0; samples] }
    }
}

/// Samples as they are written.
struct Paint {
    first: u32,
    /// Of the other squares of a checkered surface.
    second: Option<u32>,
}

fn sample([red, green, blue]: [u8; 3], label: u8) -> u32 {
    u32::from_le_bytes([red, green, blue, label])
}

fn label_of(sample: u32) -> u8 {
    sample.to_le_bytes()[3]
}
