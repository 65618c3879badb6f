//! ChArUco: which corner of the lattice is which.

use super::super::corners::Corner;
use super::aruco::Dictionary;
use super::grey::Grey;
use super::lattice::{Lattice, grow};
use super::saddle;
use nalgebra::{Matrix3, SMatrix, SVector, Vector3};
use std::collections::BTreeMap;

/// A board as OpenCV draws it: black in the top-left square, a marker in every white one, ids row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct CharucoBoard {
    squares: (usize, usize),
    square_m: f64,
    /// `None`: a chessboard without markers.
    markers: Option<(f64, Dictionary)>,
}

/// Numbers that make no board.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BoardError {
    /// Too few squares.
    #[error("{0}×{1} squares: a board has 3×3 or more, across × down")]
    Squares(usize, usize),
    /// A size that cannot be.
    #[error(
        "squares of {square_m} m with markers of {marker_m} m: the marker is smaller than its square, by 10 % or more"
    )]
    Size {
        /// Side of a square, m.
        square_m: f64,
        /// Side of a marker, m.
        marker_m: f64,
    },
    /// More squares than markers.
    #[error("the board needs {needed} markers and the dictionary has {has}: choose a larger one")]
    Markers {
        /// White squares.
        needed: usize,
        /// Markers.
        has: usize,
    },
}

/// A board in one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Corners, with their places on the board: m from its top-left corner, x right, y down. Without markers the place is
    /// that in the lattice, whatever its shift and turn.
    pub corners: Vec<Corner>,
    /// Markers read.
    pub markers: usize,
}

/// Pixels by column and row of the board's corners.
type Named = Vec<((i32, i32), [f64; 2])>;

/// Markers that must agree on where the board is.
const AGREE: usize = 2;
/// Share of the markers read that must.
const AGREE_SHARE: f64 = 0.6;

impl CharucoBoard {
    /// A ChArUco board.
    ///
    /// # Errors
    /// [`BoardError`].
    pub fn new(
        squares: (usize, usize),
        square_m: f64,
        marker_m: f64,
        dictionary: Dictionary,
    ) -> Result<Self, BoardError> {
        let size = BoardError::Size { square_m, marker_m };
        if !(square_m.is_finite() && square_m > 0.0 && marker_m > 0.2 * square_m && marker_m <= 0.9 * square_m) {
            return Err(size);
        }
        let mut board = Self::chessboard(squares, square_m)?;
        let needed = squares.0 * squares.1 / 2;
        if needed > dictionary.len() {
            return Err(BoardError::Markers { needed, has: dictionary.len() });
        }
        board.markers = Some((marker_m, dictionary));
        Ok(board)
    }

    /// A chessboard.
    ///
    /// # Errors
    /// [`BoardError`].
    pub fn chessboard(squares: (usize, usize), square_m: f64) -> Result<Self, BoardError> {
        if squares.0 < 3 || squares.1 < 3 {
            return Err(BoardError::Squares(squares.0, squares.1));
        }
        if !(square_m.is_finite() && square_m > 0.0) {
            return Err(BoardError::Size { square_m, marker_m: 0.0 });
        }
        Ok(Self { squares, square_m, markers: None })
    }

    /// Width and height, m.
    pub fn size_m(&self) -> [f64; 2] {
        [self.squares.0 as f64 * self.square_m, self.squares.1 as f64 * self.square_m]
    }

    /// Inner corners.
    pub fn inner_corners(&self) -> usize {
        (self.squares.0 - 1) * (self.squares.1 - 1)
    }

    /// Whether the board is white at a place, m from its top-left corner; beside it is white.
    pub fn is_white(&self, [x_m, y_m]: [f64; 2]) -> bool {
        let (x, y) = (x_m / self.square_m, y_m / self.square_m);
        let (column, row) = (x.floor(), y.floor());
        if column < 0.0 || row < 0.0 || column >= self.squares.0 as f64 || row >= self.squares.1 as f64 {
            return true;
        }
        let (column_index, row_index) = (column as usize, row as usize);
        if (column_index + row_index).is_multiple_of(2) {
            return false;
        }
        let Some((marker_m, dictionary)) = &self.markers else { return true };
        let modules = (dictionary.size() + 2) as f64;
        let module = |at: f64| ((at - 0.5) * self.square_m / marker_m + 0.5) * modules;
        let (u, v) = (module(x - column).floor(), module(y - row).floor());
        if u < 0.0 || v < 0.0 || u >= modules || v >= modules {
            return true;
        }
        let is_border = u < 1.0 || v < 1.0 || u >= modules - 1.0 || v >= modules - 1.0;
        !is_border && dictionary.is_white(self.marker(column_index, row_index), v as usize - 1, u as usize - 1)
    }

    /// The marker in a white square.
    fn marker(&self, column: usize, row: usize) -> usize {
        // White squares before it, row by row: odd columns in even rows, even columns in odd rows.
        let across = self.squares.0;
        let before: usize = (0..row).map(|row| if row % 2 == 0 { across / 2 } else { across.div_ceil(2) }).sum();
        before + column / 2
    }

    /// The white square of a marker.
    fn square(&self, id: usize) -> Option<(usize, usize)> {
        (0..self.squares.1)
            .flat_map(|row| (0..self.squares.0).map(move |column| (column, row)))
            .filter(|(column, row)| (column + row) % 2 == 1)
            .nth(id)
    }

    /// Finds the board; without any of it the detection is empty.
    pub fn detect(&self, image: &Grey) -> Detection {
        let lattices = grow(image, &saddle::find(image));
        let Some((marker_m, dictionary)) = &self.markers else {
            let corners = lattices.first().map(|lattice| self.unnamed(lattice)).unwrap_or_default();
            return Detection { corners, markers: 0 };
        };
        let mut found = Detection { corners: Vec::new(), markers: 0 };
        let mut taken: BTreeMap<(i32, i32), usize> = BTreeMap::new();
        for lattice in &lattices {
            let Some((named, markers)) = self.name(image, lattice, marker_m / self.square_m, dictionary) else {
                continue;
            };
            found.markers += markers;
            for (place, pixel) in named {
                *taken.entry(place).or_default() += 1;
                let object_m = [f64::from(place.0) * self.square_m, f64::from(place.1) * self.square_m];
                found.corners.push(Corner { object_m, pixel });
            }
        }
        // A corner that two lattices claim is neither's.
        let place = |corner: &Corner| corner.object_m.map(|at| (at / self.square_m).round() as i32);
        found.corners.retain(|corner| {
            let [x, y] = place(corner);
            taken.get(&(x, y)) == Some(&1)
        });
        found
    }

    /// A lattice without markers, where it is no larger than the board.
    fn unnamed(&self, lattice: &Lattice) -> Vec<Corner> {
        let (us, vs): (Vec<i32>, Vec<i32>) = lattice.keys().copied().unzip();
        let span = |values: &[i32]| {
            values.iter().max().zip(values.iter().min()).map_or(0, |(high, low)| (high - low + 1) as usize)
        };
        let (across, down) = (self.squares.0 - 1, self.squares.1 - 1);
        let spans = (span(&us), span(&vs));
        let fits = (spans.0 <= across && spans.1 <= down) || (spans.0 <= down && spans.1 <= across);
        if !fits {
            return Vec::new();
        }
        let corner = |(&(u, v), &pixel): (&(i32, i32), &[f64; 2])| Corner {
            object_m: [f64::from(u) * self.square_m, f64::from(v) * self.square_m],
            pixel,
        };
        lattice.iter().map(corner).collect()
    }

    /// Corners by their place on the board, and how many markers say so.
    fn name(
        &self,
        image: &Grey,
        lattice: &Lattice,
        marker_share: f64,
        dictionary: &Dictionary,
    ) -> Option<(Named, usize)> {
        // A placement: quarter turns, and where the lattice's origin lies on the board.
        let mut votes: BTreeMap<(usize, i32, i32), usize> = BTreeMap::new();
        let mut read = 0;
        for &(u, v) in lattice.keys() {
            let corners = [(u, v), (u + 1, v), (u + 1, v + 1), (u, v + 1)].map(|place| lattice.get(&place).copied());
            let [Some(a), Some(b), Some(c), Some(d)] = corners else { continue };
            let Some((id, turns)) = read_marker(image, [a, b, c, d], marker_share, dictionary) else { continue };
            let Some((column, row)) = self.square(id) else { continue };
            read += 1;
            // The middle of the square, doubled to stay whole; board = turned lattice + shift.
            let (x, y) = turned((2 * u + 1, 2 * v + 1), turns);
            let shift = (2 * column as i32 + 1 - x, 2 * row as i32 + 1 - y);
            *votes.entry((turns, shift.0, shift.1)).or_default() += 1;
        }
        let (&(turns, x, y), &agree) = votes.iter().max_by_key(|(_, votes)| **votes)?;
        if agree < AGREE || (agree as f64) < AGREE_SHARE * f64::from(read) {
            return None;
        }
        let inside = |place: i32, squares: usize| (1..squares as i32).contains(&place);
        let named = lattice.iter().map(|(&(u, v), &pixel)| {
            let (column, row) = turned((2 * u, 2 * v), turns);
            (((column + x) / 2, (row + y) / 2), pixel)
        });
        let named = named.filter(|((column, row), _)| inside(*column, self.squares.0) && inside(*row, self.squares.1));
        Some((named.collect(), agree))
    }
}

/// A lattice place in the board's axes, the marker being turned so often from `u` to `v` in the lattice.
fn turned(place: (i32, i32), turns: usize) -> (i32, i32) {
    (0..turns).fold(place, |(u, v), _| (v, -u))
}

/// Reads the marker in a square of four corners, clockwise from its first; its id, and its quarter turns.
fn read_marker(
    image: &Grey,
    corners: [[f64; 2]; 4],
    marker_share: f64,
    dictionary: &Dictionary,
) -> Option<(usize, usize)> {
    let square = unit_square(&corners)?;
    let pixel = |u: f64, v: f64| {
        let p = square * Vector3::new(u, v, 1.0);
        image.at([p.x / p.z, p.y / p.z])
    };
    let modules = dictionary.size() + 2;
    let margin = (1.0 - marker_share) / 2.0;
    let step = marker_share / modules as f64;
    let mut values = vec![vec![0.0; modules]; modules];
    for (row, line) in values.iter_mut().enumerate() {
        for (column, value) in line.iter_mut().enumerate() {
            for (dx, dy) in [(-0.2, -0.2), (0.2, -0.2), (0.0, 0.0), (-0.2, 0.2), (0.2, 0.2)] {
                let at = |index: usize, d: f64| margin + (index as f64 + 0.5 + d) * step;
                *value += pixel(at(column, dx), at(row, dy))? / 5.0;
            }
        }
    }
    let is_border = |row: usize, column: usize| row.is_multiple_of(modules - 1) || column.is_multiple_of(modules - 1);
    let cells = || (0..modules).flat_map(|row| (0..modules).map(move |column| (row, column)));
    let border: Vec<f64> = cells().filter(|&(r, c)| is_border(r, c)).map(|(r, c)| values[r][c]).collect();
    let black = border.iter().sum::<f64>() / border.len() as f64;
    let mut paper = 0.0;
    for share in [0.2, 0.5, 0.8] {
        for (u, v) in
            [(share, margin / 2.0), (share, 1.0 - margin / 2.0), (margin / 2.0, share), (1.0 - margin / 2.0, share)]
        {
            paper += pixel(u, v)? / 12.0;
        }
    }
    if paper - black < 12.0 {
        return None;
    }
    let threshold = (paper + black) / 2.0;
    // A border that is white in places is no border.
    if border.iter().filter(|&&value| value > threshold).count() > border.len() / 10 {
        return None;
    }
    let size = dictionary.size();
    let white: Vec<Vec<bool>> =
        (0..size).map(|row| (0..size).map(|column| values[row + 1][column + 1] > threshold).collect()).collect();
    dictionary.read(&white)
}

/// From the unit square to four corners, clockwise from (0, 0).
fn unit_square(corners: &[[f64; 2]; 4]) -> Option<Matrix3<f64>> {
    let mut system = SMatrix::<f64, 8, 8>::zeros();
    let mut right = SVector::<f64, 8>::zeros();
    for (index, (&[x, y], (u, v))) in corners.iter().zip([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]).enumerate() {
        for (offset, value) in [u, v, 1.0].into_iter().enumerate() {
            system[(2 * index, offset)] = value;
            system[(2 * index + 1, 3 + offset)] = value;
        }
        for (offset, value) in [u, v].into_iter().enumerate() {
            system[(2 * index, 6 + offset)] = -x * value;
            system[(2 * index + 1, 6 + offset)] = -y * value;
        }
        (right[2 * index], right[2 * index + 1]) = (x, y);
    }
    let h = system.lu().solve(&right)?;
    Some(Matrix3::new(h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], 1.0))
}
