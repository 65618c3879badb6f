//! Corners of a board as a detector found them: the input of the fit.

use serde::{Deserialize, Serialize};

/// One corner: where it is on the board and where in the image.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corner {
    /// On the board, m.
    pub object_m: [f64; 2],
    /// In the image, pixels; the centre of the top-left pixel is (0, 0).
    pub pixel: [f64; 2],
}

/// One image of the board.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// The image, for messages.
    pub image: String,
    /// Corners found in it.
    pub corners: Vec<Corner>,
}

/// Every image of one camera.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CornerFile {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Its images.
    pub views: Vec<View>,
}

/// Why corners are refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CornerError {
    /// Not this JSON.
    #[error("{file}: {message}")]
    Parse {
        /// The file as the user named it.
        file: String,
        /// The parser's message.
        message: String,
    },
    /// A corner outside the image or not finite.
    #[error("{file}: views[{image:?}].corners[{index}]: {corner:?} is not a corner in a {width}×{height} image")]
    Corner {
        /// The file as the user named it.
        file: String,
        /// The image.
        image: String,
        /// Which of its corners.
        index: usize,
        /// The corner.
        corner: Corner,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
}

impl CornerFile {
    /// Parses a file; `file` is the name to use in messages.
    ///
    /// # Errors
    /// [`CornerError`].
    pub fn from_json(text: &str, file: &str) -> Result<Self, CornerError> {
        let read: Self = serde_json::from_str(text)
            .map_err(|error| CornerError::Parse { file: file.into(), message: error.to_string() })?;
        for view in &read.views {
            for (index, &corner) in view.corners.iter().enumerate() {
                let inside = |value: f64, size: u32| (-1.0..=f64::from(size)).contains(&value);
                let [u, v] = corner.pixel;
                let known = corner.object_m.iter().all(|value| value.is_finite());
                if !(known && inside(u, read.width) && inside(v, read.height)) {
                    return Err(CornerError::Corner {
                        file: file.into(),
                        image: view.image.clone(),
                        index,
                        corner,
                        width: read.width,
                        height: read.height,
                    });
                }
            }
        }
        Ok(read)
    }
}
