//! Eigenvalues and eigenvectors of a symmetric matrix without allocating: Householder's tridiagonal form, then implicit QL
//! (EISPACK's `tred2` and `tql2`: Martin, Reinsch and Wilkinson, Numerische Mathematik 11, 1968; Bowdler et al., the same).
//!
//! About 9n³ operations, all over contiguous rows, where Jacobi sweeps take several times as many.

/// QL steps for one eigenvalue; three are usual.
const MOST_STEPS: usize = 64;

/// A symmetric matrix of fixed size and what is found of it.
///
/// # Real-time
/// Allocates at construction only.
#[derive(Clone, Debug)]
pub(super) struct Symmetric {
    n: usize,
    /// `[n, n]`: the matrix, then eigenvector `i` in row `i`.
    rows: Vec<f64>,
    /// Eigenvalues.
    values: Vec<f64>,
    /// Beside the diagonal.
    beside: Vec<f64>,
}

impl Symmetric {
    pub(super) fn new(n: usize) -> Self {
        Self { n, rows: vec![0.0; n * n], values: vec![0.0; n], beside: vec![0.0; n] }
    }

    /// `[n, n]`, to write the matrix into; all of it, though only symmetric matrices mean anything.
    pub(super) fn matrix_mut(&mut self) -> &mut [f64] {
        &mut self.rows
    }

    /// Eigenvalues, in the order of [`vector`](Self::vector), not sorted.
    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }

    /// Eigenvector of eigenvalue `index`, `[n]`, of length 1.
    pub(super) fn vector(&self, index: usize) -> &[f64] {
        &self.rows[index * self.n..(index + 1) * self.n]
    }

    /// Replaces the matrix by its eigenvectors. `None` where it holds a number that is not finite, or an eigenvalue was not
    /// found in [`MOST_STEPS`].
    pub(super) fn solve(&mut self) -> Option<()> {
        if self.n == 0 {
            return Some(());
        }
        if !self.rows.iter().all(|value| value.is_finite()) {
            return None;
        }
        self.reduce();
        self.accumulate();
        self.iterate()
    }

    /// To tridiagonal form; `rows` keeps the reflections. Row `j` here is column `j` of the published code.
    fn reduce(&mut self) {
        let Self { n, rows, values: d, beside: e } = self;
        let n = *n;
        for (j, value) in d.iter_mut().enumerate() {
            *value = rows[j * n + n - 1];
        }
        for i in (1..n).rev() {
            let scale: f64 = d[..i].iter().map(|value| value.abs()).sum();
            let mut h = 0.0;
            if scale == 0.0 {
                e[i] = d[i - 1];
                for j in 0..i {
                    d[j] = rows[j * n + i - 1];
                    rows[j * n + i] = 0.0;
                    rows[i * n + j] = 0.0;
                }
            } else {
                for value in &mut d[..i] {
                    *value /= scale;
                    h += *value * *value;
                }
                let f = d[i - 1];
                let g = if f > 0.0 { -h.sqrt() } else { h.sqrt() };
                e[i] = scale * g;
                h -= f * g;
                d[i - 1] = f - g;
                e[..i].fill(0.0);
                for j in 0..i {
                    let f = d[j];
                    rows[i * n + j] = f;
                    let row = &rows[j * n..(j + 1) * n];
                    let mut g = e[j] + row[j] * f;
                    for ((value, d), e) in row[j + 1..i].iter().zip(&d[j + 1..i]).zip(&mut e[j + 1..i]) {
                        g += value * d;
                        *e += value * f;
                    }
                    e[j] = g;
                }
                let mut f = 0.0;
                for (e, d) in e[..i].iter_mut().zip(&d[..i]) {
                    *e /= h;
                    f += *e * d;
                }
                let hh = f / (h + h);
                for (e, d) in e[..i].iter_mut().zip(&d[..i]) {
                    *e -= hh * d;
                }
                for j in 0..i {
                    let (f, g) = (d[j], e[j]);
                    let row = &mut rows[j * n..(j + 1) * n];
                    for ((value, d), e) in row[j..i].iter_mut().zip(&d[j..i]).zip(&e[j..i]) {
                        *value -= f * e + g * d;
                    }
                    d[j] = row[i - 1];
                    row[i] = 0.0;
                }
            }
            d[i] = h;
        }
    }

    /// Multiplies the reflections.
    fn accumulate(&mut self) {
        let Self { n, rows, values: d, beside: e } = self;
        let n = *n;
        for i in 0..n - 1 {
            rows[i * n + n - 1] = rows[i * n + i];
            rows[i * n + i] = 1.0;
            let h = d[i + 1];
            let (before, behind) = rows.split_at_mut((i + 1) * n);
            let reflection = &mut behind[..=i];
            if h != 0.0 {
                for (d, value) in d.iter_mut().zip(reflection.iter()) {
                    *d = value / h;
                }
                for row in before.chunks_exact_mut(n) {
                    let g: f64 = reflection.iter().zip(&row[..=i]).map(|(a, b)| a * b).sum();
                    for (value, d) in row[..=i].iter_mut().zip(&d[..=i]) {
                        *value -= g * d;
                    }
                }
            }
            reflection.fill(0.0);
        }
        for (j, value) in d.iter_mut().enumerate() {
            *value = std::mem::take(&mut rows[j * n + n - 1]);
        }
        rows[n * n - 1] = 1.0;
        e[0] = 0.0;
    }

    /// From tridiagonal to diagonal form.
    fn iterate(&mut self) -> Option<()> {
        let Self { n, rows, values: d, beside: e } = self;
        let n = *n;
        e.rotate_left(1);
        e[n - 1] = 0.0;
        let (mut shift, mut largest) = (0.0_f64, 0.0_f64);
        for l in 0..n {
            largest = largest.max(d[l].abs() + e[l].abs());
            let is_small = |value: f64| value.abs() <= f64::EPSILON * largest;
            let m = (l..n - 1).find(|m| is_small(e[*m])).unwrap_or(n - 1);
            let mut steps = 0;
            while m > l && !is_small(e[l]) {
                steps += 1;
                if steps > MOST_STEPS {
                    return None;
                }
                let g = d[l];
                let p = (d[l + 1] - g) / (2.0 * e[l]);
                let r = p.hypot(1.0).copysign(p);
                d[l] = e[l] / (p + r);
                d[l + 1] = e[l] * (p + r);
                let (below, h) = (d[l + 1], g - d[l]);
                for value in &mut d[l + 2..n] {
                    *value -= h;
                }
                shift += h;
                let mut p = d[m];
                let (mut c, mut c2, mut c3, mut s, mut s2) = (1.0, 1.0, 1.0, 0.0, 0.0);
                let first = e[l + 1];
                for i in (l..m).rev() {
                    (c3, c2, s2) = (c2, c, s);
                    let (g, h) = (c * e[i], c * p);
                    let r = p.hypot(e[i]);
                    e[i + 1] = s * r;
                    (s, c) = (e[i] / r, p / r);
                    p = c * d[i] - s * g;
                    d[i + 1] = h + s * (c * g + s * d[i]);
                    let (upper, lower) = rows[i * n..(i + 2) * n].split_at_mut(n);
                    for (a, b) in upper.iter_mut().zip(lower) {
                        let h = *b;
                        *b = s * *a + c * h;
                        *a = c * *a - s * h;
                    }
                }
                p = -s * s2 * c3 * first * e[l] / below;
                e[l] = s * p;
                d[l] = c * p;
            }
            d[l] += shift;
            e[l] = 0.0;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_by_two_by_hand() {
        // [[2, 1], [1, 2]]: 1 with (1, −1)/√2 and 3 with (1, 1)/√2.
        let mut matrix = Symmetric::new(2);
        matrix.matrix_mut().copy_from_slice(&[2.0, 1.0, 1.0, 2.0]);
        matrix.solve().unwrap();
        let three = usize::from(matrix.values()[1] > 2.0);
        assert!((matrix.values()[three] - 3.0).abs() < 1e-12 && (matrix.values()[1 - three] - 1.0).abs() < 1e-12);
        for value in matrix.vector(three) {
            assert!((value.abs() - 0.5_f64.sqrt()).abs() < 1e-12);
        }
    }

    #[test]
    fn vectors_are_orthonormal_and_make_the_matrix_again() {
        for n in [1, 3, 17, 78] {
            // Of rank 5 at most, so that eigenvalues coincide at zero.
            let mut state = 1_u64;
            let mut random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f64 / f64::from(1 << 24) - 0.5
            };
            let x: Vec<f64> = (0..n * 5).map(|_| random()).collect();
            let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let gram = |i: usize, j: usize| product(&x[i * 5..(i + 1) * 5], &x[j * 5..(j + 1) * 5]);
            let mut matrix = Symmetric::new(n);
            for at in 0..n * n {
                matrix.matrix_mut()[at] = gram(at / n, at % n);
            }
            matrix.solve().unwrap();
            for i in 0..n {
                for j in 0..n {
                    let unit = f64::from(u8::from(i == j));
                    assert!((product(matrix.vector(i), matrix.vector(j)) - unit).abs() < 1e-10, "{n}: {i}, {j}");
                    let again: f64 =
                        (0..n).map(|k| matrix.values()[k] * matrix.vector(k)[i] * matrix.vector(k)[j]).sum();
                    assert!((again - gram(i, j)).abs() < 1e-10, "{n}: {i}, {j}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let mut matrix = Symmetric::new(2);
        matrix.matrix_mut().copy_from_slice(&[1.0, f64::NAN, f64::NAN, 1.0]);
        assert_eq!(matrix.solve(), None);
        matrix.matrix_mut().fill(0.0);
        matrix.solve().unwrap();
        assert_eq!(matrix.values(), [0.0, 0.0]);
    }
}
