//! Boards for `calibrate camera`: which one, in which images, and `calibrate board`, which draws one to print.

use crate::cli::error::CliError;
use clap::Args;
use endplate_calibration::camera::{CharucoBoard, CornerFile, Grey, View};
use std::path::{Path, PathBuf};

/// Which board.
#[derive(Args)]
pub struct BoardArguments {
    /// Squares across × down, such as 11x8.
    #[arg(long, value_name = "AxB")]
    pub squares: Option<String>,
    /// Side of a square, m: measure it on the print.
    #[arg(long, value_name = "M")]
    pub square_m: Option<f64>,
    /// Side of a marker, m; without it the board is a plain chessboard.
    #[arg(long, value_name = "M")]
    pub marker_m: Option<f64>,
    /// The markers, as OpenCV names them.
    #[arg(long, default_value = "DICT_4X4_250")]
    pub dictionary: String,
}

impl BoardArguments {
    /// The board.
    pub fn board(&self) -> Result<CharucoBoard, CliError> {
        let form =
            || CliError::Input("--squares AxB and --square-m M: describe the board, such as 11x8 and 0.02".into());
        let squares = self.squares.as_deref().ok_or_else(form)?;
        let squares =
            squares.split_once('x').and_then(|(across, down)| Some((across.parse().ok()?, down.parse().ok()?)));
        let (squares, square_m) = squares.zip(self.square_m).ok_or_else(form)?;
        let board = match self.marker_m {
            None => CharucoBoard::chessboard(squares, square_m),
            Some(marker_m) => {
                let dictionary = self.dictionary.parse();
                let dictionary = dictionary.map_err(|error| CliError::Input(format!("--dictionary: {error}")))?;
                CharucoBoard::new(squares, square_m, marker_m, dictionary)
            }
        };
        board.map_err(CliError::input)
    }
}

/// Arguments of `calibrate board`.
#[derive(Args)]
pub struct DrawArguments {
    #[command(flatten)]
    board: BoardArguments,
    /// The picture, PNG: it says how large it is, so print it at 100 %.
    #[arg(long, value_name = "FILE")]
    write: PathBuf,
    /// Resolution, dots per inch.
    #[arg(long, default_value_t = 600)]
    dpi: u32,
}

/// Draws a board with half a square of paper around it.
pub fn draw(arguments: &DrawArguments) -> Result<(), CliError> {
    let board = arguments.board.board()?;
    if !(72..=2400).contains(&arguments.dpi) {
        return Err(CliError::Input(format!("--dpi {}: write 72 to 2400", arguments.dpi)));
    }
    let (per_m, margin_m) = (f64::from(arguments.dpi) / 0.0254, arguments.board.square_m.unwrap_or_default() / 2.0);
    let pixels = board.size_m().map(|size_m| ((size_m + 2.0 * margin_m) * per_m).round() as u32);
    let [width, height] = pixels;
    if pixels.iter().any(|&pixels| pixels > 40_000) {
        return Err(CliError::Input(format!("{width}×{height} pixels are too many: lower --dpi")));
    }
    let mut data = Vec::with_capacity(width as usize * height as usize);
    for y in 0..height {
        for x in 0..width {
            let at = [x, y].map(|at| (f64::from(at) + 0.5) / per_m - margin_m);
            data.push(if board.is_white(at) { 255u8 } else { 0 });
        }
    }
    let fail = |error: String| CliError::Failed(format!("{}: {error}", arguments.write.display()));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let dots = per_m.round() as u32;
    encoder.set_pixel_dims(Some(png::PixelDimensions { xppu: dots, yppu: dots, unit: png::Unit::Meter }));
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&data));
    written.map_err(|error| fail(error.to_string()))?;
    crate::cli::error::write(&arguments.write, bytes)?;
    let [across, down] = [width, height].map(|pixels| f64::from(pixels) / per_m * 1e3);
    say!("written: {} ({across:.1} × {down:.1} mm); print it at 100 % and measure a square", arguments.write.display());
    Ok(())
}

/// A grey image of a PNG or JPEG file.
pub fn read_image(path: &Path) -> Result<Grey, CliError> {
    let fail = |error: String| CliError::Input(format!("{}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    let grey = if bytes.starts_with(b"\x89PNG") { png_image(&bytes) } else { jpeg_image(&bytes) };
    grey.map_err(fail)
}

fn png_image(bytes: &[u8]) -> Result<Grey, String> {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    let size = reader.output_buffer_size().ok_or("the image is too large")?;
    let mut data = vec![0; size];
    let info = reader.next_frame(&mut data).map_err(|error| error.to_string())?;
    let (width, height) = (info.width as usize, info.height as usize);
    data.truncate(info.buffer_size());
    let pixels = |channels: usize, keep: usize| -> Vec<u8> {
        data.chunks_exact(channels).flat_map(|pixel| pixel[..keep].to_vec()).collect()
    };
    let grey = match info.color_type {
        png::ColorType::Rgb => Grey::from_rgb(width, height, &data),
        png::ColorType::Rgba => Grey::from_rgb(width, height, &pixels(4, 3)),
        png::ColorType::GrayscaleAlpha => Grey::from_luma(width, height, &pixels(2, 1)),
        _ => Grey::from_luma(width, height, &data),
    };
    grey.ok_or_else(|| "the image is empty".to_owned())
}

#[cfg(feature = "v4l2")]
fn jpeg_image(bytes: &[u8]) -> Result<Grey, String> {
    use endplate_hal::camera::{MjpegDecoder, jpeg_size};
    let size = jpeg_size(bytes).map_err(|error| format!("neither PNG nor JPEG: {error}"))?;
    let (width, height) = (size.0 as usize, size.1 as usize);
    let mut rgb = vec![0; width * height * 3];
    MjpegDecoder::default().decode(bytes, size, &mut rgb).map_err(|error| error.to_string())?;
    Grey::from_rgb(width, height, &rgb).ok_or_else(|| "the image is empty".to_owned())
}

#[cfg(not(feature = "v4l2"))]
fn jpeg_image(_: &[u8]) -> Result<Grey, String> {
    Err("not a PNG; JPEG needs the feature `v4l2`".to_owned())
}

/// A view is another one when its corners have moved by this share of the image's width in the mean.
const MOVED: f64 = 0.03;

/// Images of a board, of one size, and their corners.
pub struct Views {
    board: CharucoBoard,
    file: CornerFile,
}

/// Corners below which an image says nothing of its own.
const LEAST: usize = 8;

impl Views {
    /// None yet.
    pub fn new(board: CharucoBoard) -> Self {
        Self { board, file: CornerFile { width: 0, height: 0, views: Vec::new() } }
    }

    /// Looks for the board; the corners found.
    ///
    /// # Errors
    /// Another size than the images before.
    pub fn add(&mut self, name: &str, image: &Grey) -> Result<usize, CliError> {
        let size = (image.width() as u32, image.height() as u32);
        if !self.file.views.is_empty() && size != (self.file.width, self.file.height) {
            return Err(CliError::Input(format!(
                "{name}: {}×{} pixels and the images before {}×{}: give images of one size",
                size.0, size.1, self.file.width, self.file.height
            )));
        }
        (self.file.width, self.file.height) = size;
        let corners = self.board.detect(image).corners;
        let found = corners.len();
        self.file.views.push(View { image: name.to_owned(), corners });
        Ok(found)
    }

    /// Adds a frame of a live camera if the board has moved since those before; whether it was taken, and its corners.
    pub fn offer(&mut self, name: &str, image: &Grey) -> (bool, usize) {
        let corners = self.board.detect(image).corners;
        let found = corners.len();
        let moved = |view: &View| {
            let shifts: Vec<f64> = corners
                .iter()
                .filter_map(|corner| {
                    let same = view.corners.iter().find(|other| other.object_m == corner.object_m)?;
                    Some((same.pixel[0] - corner.pixel[0]).hypot(same.pixel[1] - corner.pixel[1]))
                })
                .collect();
            shifts.is_empty() || shifts.iter().sum::<f64>() / shifts.len() as f64 > MOVED * image.width() as f64
        };
        let is_new = found >= LEAST && self.file.views.iter().all(moved);
        if is_new {
            (self.file.width, self.file.height) = (image.width() as u32, image.height() as u32);
            self.file.views.push(View { image: name.to_owned(), corners });
        }
        (is_new, found)
    }

    /// Views taken.
    pub fn len(&self) -> usize {
        self.file.views.len()
    }

    /// What was found.
    pub fn into_file(self) -> CornerFile {
        self.file
    }
}
