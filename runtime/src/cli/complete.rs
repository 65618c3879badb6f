//! Completes a recorded dataset for the trainer: normalisation statistics, a fitted FAST tokenizer, and every frame's
//! tokens, so that training and running share one tokenizer and one set of statistics.

use anyhow::{Context, bail};
use endplate_calibration::{DatasetStatistics, Quantiles, StatisticsError};
use endplate_tokenizers::{FastTokenizer, FitOptions};
use npyz::{NpyFile, WriterBuilder};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

/// Least distance of the action quantiles, rad.
const MIN_SPAN: f64 = 0.6;

/// Dimensions written relative to the measured state; the last one, the gripper, is absolute.
fn is_relative(dim: usize, dims: usize) -> bool {
    dim + 1 < dims
}

/// What was fitted.
#[derive(Clone, Debug)]
pub struct Completed {
    /// Frames in the dataset.
    pub frames: usize,
    /// Ids of the tokenizer.
    pub vocabulary: u32,
    /// Mean and largest number of tokens of a chunk.
    pub tokens: (f64, usize),
}

/// Fits statistics and tokenizer on the dataset in `dir` and writes `stats.json`, `tokenizer/`, `tokens.npy` and
/// `token_len.npy` beside its arrays. With `from`, the statistics and the tokenizer of another dataset are used
/// instead of fitted ones (for data added to it later).
///
/// # Errors
/// When an array is missing, has another shape or cannot be encoded; the message names the file.
pub fn complete(dir: &Path, vocabulary: u32, from: Option<&Path>) -> anyhow::Result<Completed> {
    let (shape, actions) = read_f32(&dir.join("actions.npy"))?;
    let (state_shape, states) = read_f32(&dir.join("state.npy"))?;
    let &[frames, horizon, dims] = shape.as_slice() else {
        bail!("{}: shape {shape:?}: a [N, H, D] array is needed", dir.join("actions.npy").display());
    };
    if state_shape != [frames, dims] || frames == 0 {
        bail!("{}: shape {state_shape:?}: [{frames}, {dims}] is needed", dir.join("state.npy").display());
    }
    let relative: Vec<f64> = actions
        .iter()
        .enumerate()
        .map(|(index, &value)| {
            let dim = index % dims;
            let frame = index / (horizon * dims);
            if is_relative(dim, dims) { value - states[frame * dims + dim] } else { value }
        })
        .collect();
    let statistics = match from {
        Some(other) => {
            let file = other.join("stats.json");
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            DatasetStatistics::from_json(&text, &file.display().to_string())?
        }
        None => DatasetStatistics {
            state: Quantiles::fit(&states, dims)?,
            action: widened(&Quantiles::fit(&relative, dims)?)?,
        },
    };
    std::fs::write(dir.join("stats.json"), statistics.to_json())?;
    let normalised: Vec<f64> =
        relative.iter().enumerate().map(|(index, &value)| statistics.action.normalise(index % dims, value)).collect();
    let chunks = || normalised.chunks_exact(horizon * dims);
    let tokenizer = match from {
        Some(other) => FastTokenizer::from_dir(other.join("tokenizer"))?,
        None => {
            let options = FitOptions { vocab_size: vocabulary, ..FitOptions::default() };
            FastTokenizer::fit(chunks(), horizon, dims, &options)?
        }
    };
    tokenizer.save(dir.join("tokenizer"))?;
    let mut codec = tokenizer.codec(horizon, dims)?;
    let mut ids = Vec::new();
    let mut encoded: Vec<Vec<u16>> = Vec::with_capacity(frames);
    for (frame, chunk) in chunks().enumerate() {
        codec.encode(chunk, &mut ids).with_context(|| format!("frame {frame} cannot be encoded"))?;
        let ids: Result<Vec<u16>, _> = ids.iter().map(|&id| u16::try_from(id)).collect();
        encoded.push(ids.context("a vocabulary larger than 65,535 does not fit tokens.npy")?);
    }
    let longest = encoded.iter().map(Vec::len).max().unwrap_or(0);
    let lengths: Vec<u16> = encoded.iter().map(|ids| u16::try_from(ids.len())).collect::<Result<_, _>>()?;
    let padded = encoded.iter().flat_map(|ids| {
        let padding = std::iter::repeat_n(u16::MAX, longest - ids.len());
        ids.iter().copied().chain(padding)
    });
    write_u16(&dir.join("tokens.npy"), &[frames as u64, longest as u64], padded)?;
    write_u16(&dir.join("token_len.npy"), &[frames as u64], lengths.iter().copied())?;
    let mean = lengths.iter().map(|&length| f64::from(length)).sum::<f64>() / frames as f64;
    Ok(Completed { frames, vocabulary: tokenizer.vocab_size(), tokens: (mean, longest) })
}

/// A dimension that hardly moves is not magnified: its quantiles are taken at least [`MIN_SPAN`] apart, so that tokens
/// are spent on motion and not on noise.
fn widened(fitted: &Quantiles) -> Result<Quantiles, StatisticsError> {
    let ends = fitted.q01().iter().zip(fitted.q99()).map(|(&low, &high)| {
        let more = ((MIN_SPAN - (high - low)) / 2.0).max(0.0);
        (low - more, high + more)
    });
    let (q01, q99) = ends.unzip();
    Quantiles::new(q01, q99)
}

fn read_f32(path: &Path) -> anyhow::Result<(Vec<usize>, Vec<f64>)> {
    let name = || path.display().to_string();
    let file = BufReader::new(File::open(path).with_context(name)?);
    let array = NpyFile::new(file).with_context(name)?;
    let shape = array.shape().iter().map(|&extent| extent as usize).collect();
    let values: Vec<f32> = array.into_vec().with_context(name)?;
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        bail!("{}: value {index} is not finite", name());
    }
    Ok((shape, values.into_iter().map(f64::from).collect()))
}

fn write_u16(path: &Path, shape: &[u64], values: impl Iterator<Item = u16>) -> anyhow::Result<()> {
    let file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd()?;
    writer.extend(values)?;
    writer.finish()?;
    Ok(())
}
