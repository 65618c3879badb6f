//! The square markers of OpenCV's predefined dictionaries.

use core::str::FromStr;

/// Markers of `size` × `size` bits, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dictionary {
    size: usize,
    codes: Vec<u64>,
    correctable: u32,
}

/// Bits row by row, 1 is white; made by `calibration/scripts/aruco_tables.py`.
const TABLES: [(usize, &str, u32); 3] = [
    (4, include_str!("aruco_4x4_250.txt"), 1),
    (5, include_str!("aruco_5x5_250.txt"), 2),
    (6, include_str!("aruco_6x6_250.txt"), 4),
];

/// A name that is no dictionary's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no dictionary: write DICT_4X4_250, DICT_5X5_100 or another of 4X4, 5X5, 6X6 with 50, 100 or 250")]
pub struct UnknownDictionary(String);

impl FromStr for Dictionary {
    type Err = UnknownDictionary;

    /// As OpenCV names it.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        for (size, table, correctable) in TABLES {
            for count in [50, 100, 250] {
                if name == format!("DICT_{size}X{size}_{count}") {
                    let codes = table.lines().take(count).filter_map(|line| u64::from_str_radix(line, 16).ok());
                    return Ok(Self { size, codes: codes.collect(), correctable });
                }
            }
        }
        Err(UnknownDictionary(name.into()))
    }
}

impl Dictionary {
    /// Bits across, the black border left out.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of markers.
    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Whether there is no marker.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// Whether a bit of a marker is white; the border is not.
    pub fn is_white(&self, id: usize, row: usize, column: usize) -> bool {
        let bit = self.size * self.size - 1 - (row * self.size + column);
        self.codes[id] >> bit & 1 == 1
    }

    /// The marker that these bits show, `[row][column]`, and by how many quarter turns from `u` to `v` (right to down)
    /// the marker is turned in them; `None` where more than one bit or two are wrong.
    pub(super) fn read(&self, white: &[Vec<bool>]) -> Option<(usize, usize)> {
        let size = self.size;
        let mut best: Option<(u32, usize, usize)> = None;
        for turns in 0..4 {
            let mut code = 0u64;
            for row in 0..size {
                for column in 0..size {
                    // The marker's own row and column, as they lie when it is turned.
                    let (r, c) = (0..turns).fold((row, column), |(r, c), _| (c, size - 1 - r));
                    code = code << 1 | u64::from(white[r][c]);
                }
            }
            for (id, &known) in self.codes.iter().enumerate() {
                let wrong = (code ^ known).count_ones();
                if best.is_none_or(|(least, _, _)| wrong < least) {
                    best = Some((wrong, id, turns));
                }
            }
        }
        best.filter(|(wrong, _, _)| *wrong <= self.correctable).map(|(_, id, turns)| (id, turns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_in_every_turn_and_with_a_wrong_bit() {
        for name in ["DICT_4X4_50", "DICT_5X5_100", "DICT_6X6_250"] {
            let dictionary: Dictionary = name.parse().unwrap();
            let size = dictionary.size();
            for id in [0, 1, 17, dictionary.len() - 1] {
                let mut white: Vec<Vec<bool>> = (0..size)
                    .map(|row| (0..size).map(|column| dictionary.is_white(id, row, column)).collect())
                    .collect();
                for turns in 0..4 {
                    assert_eq!(dictionary.read(&white), Some((id, turns)), "{name}");
                    let mut spoiled = white.clone();
                    spoiled[1][2] = !spoiled[1][2];
                    assert_eq!(dictionary.read(&spoiled), Some((id, turns)), "{name}");
                    // A quarter turn from right to down: what was on the left is at the top.
                    white =
                        (0..size).map(|row| (0..size).map(|column| white[size - 1 - column][row]).collect()).collect();
                }
            }
            assert_eq!(dictionary.read(&vec![vec![true; size]; size]), None);
        }
        assert!("DICT_7X7_50".parse::<Dictionary>().is_err());
    }
}
