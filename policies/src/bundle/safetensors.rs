//! Reading one tensor of a safetensors file: 8 bytes header length, a JSON header, the data.
//!
//! The file is untrusted until its digest was checked, and read as if it still were: every offset is compared with
//! the file before it is used, and no input makes the parser panic or allocate more than the file holds.

use std::collections::BTreeMap;

use half::f16;

/// Why a tensor cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SafetensorsError {
    /// The file ends before its header does.
    #[error("the file has {len} bytes and its header needs {needed}")]
    Truncated {
        /// Bytes the header needs.
        needed: u64,
        /// Bytes there are.
        len: usize,
    },
    /// The header is not what it should be.
    #[error("the header is damaged: {0}")]
    Header(String),
    /// The tensor is not in the file.
    #[error("there is no tensor `{0}`")]
    Missing(String),
    /// The tensor has another element type than f16 or f32.
    #[error("tensor `{name}` has element type {dtype}; F16 and F32 can be read")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// The tensor has another shape.
    #[error("tensor `{name}` has shape {got:?} and must have {needed:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// The shape needed.
        needed: Vec<usize>,
        /// The shape found.
        got: Vec<usize>,
    },
    /// The tensor's bytes lie outside the file or do not match its shape.
    #[error("tensor `{name}` is bytes {start}..{end} of {len} bytes of data and needs {needed} bytes")]
    Range {
        /// The tensor.
        name: String,
        /// First byte, relative to the data.
        start: usize,
        /// Past the last byte.
        end: usize,
        /// Bytes of data in the file.
        len: usize,
        /// Bytes its shape needs.
        needed: usize,
    },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// Reads tensor `name` of the given shape, widening f16 to f32, row-major.
///
/// # Errors
/// [`SafetensorsError`].
pub fn read_f32(file: &[u8], name: &str, shape: &[usize]) -> Result<Vec<f32>, SafetensorsError> {
    let truncated = |needed: u64| SafetensorsError::Truncated { needed, len: file.len() };
    let (length, rest) = file.split_first_chunk::<8>().ok_or(truncated(8))?;
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().and_then(|n| rest.get(..n)).ok_or(truncated(length.saturating_add(8)))?;
    let data = &rest[header.len()..];
    let damaged = |error: serde_json::Error| SafetensorsError::Header(error.to_string());
    let mut entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).map_err(damaged)?;
    let entry = entries.remove(name).ok_or_else(|| SafetensorsError::Missing(name.to_owned()))?;
    let entry: Entry = serde_json::from_value(entry).map_err(damaged)?;

    if entry.shape != shape {
        return Err(SafetensorsError::Shape { name: name.to_owned(), needed: shape.to_vec(), got: entry.shape });
    }
    let width = match entry.dtype.as_str() {
        "F16" => 2,
        "F32" => 4,
        _ => return Err(SafetensorsError::Dtype { name: name.to_owned(), dtype: entry.dtype }),
    };
    let needed = shape.iter().try_fold(width, |n: usize, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
    let (start, end) = entry.data_offsets;
    let bytes = data.get(start..end).filter(|bytes| bytes.len() == needed);
    let bytes =
        bytes.ok_or_else(|| SafetensorsError::Range { name: name.to_owned(), start, end, len: data.len(), needed })?;
    Ok(match width {
        2 => bytes.as_chunks::<2>().0.iter().map(|two| f16::from_le_bytes(*two).to_f32()).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(data);
        file
    }

    #[test]
    fn f16_is_widened_and_f32_kept() {
        let mut data = Vec::new();
        for value in [1.5f32, -0.25] {
            data.extend(f16::from_f32(value).to_le_bytes());
        }
        data.extend(3.25f32.to_le_bytes());
        let header = r#"{"__metadata__":{"format":"pt"},"e":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
        let file = file(header, &data);
        assert_eq!(read_f32(&file, "e", &[1, 2]).unwrap(), [1.5, -0.25]);
        assert_eq!(read_f32(&file, "w", &[1]).unwrap(), [3.25]);
        assert_eq!(read_f32(&file, "x", &[1]), Err(SafetensorsError::Missing("x".into())));
        assert!(matches!(read_f32(&file, "e", &[2, 2]), Err(SafetensorsError::Shape { .. })));
    }

    #[test]
    fn no_damaged_file_is_read() {
        for bad in [&[][..], &[1, 2, 3], &[255; 8], &[255; 40]] {
            assert!(read_f32(bad, "e", &[1]).is_err());
        }
        for header in [
            "",
            "[]",
            r#"{"e":{"dtype":"F16","shape":[1],"data_offsets":[0,9]}}"#,
            r#"{"e":{"dtype":"F16","shape":[1],"data_offsets":[2,0]}}"#,
            r#"{"e":{"dtype":"F16","shape":[1],"data_offsets":[18446744073709551615,18446744073709551615]}}"#,
            r#"{"e":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#,
            r#"{"e":{"dtype":"F16","shape":[-1],"data_offsets":[0,2]}}"#,
        ] {
            assert!(read_f32(&file(header, &[0; 4]), "e", &[1]).is_err(), "{header}");
        }
        let whole = file(r#"{"e":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}"#, &[0; 2]);
        for cut in 0..whole.len() {
            assert!(read_f32(&whole[..cut], "e", &[1]).is_err(), "cut at {cut}");
        }
        assert!(read_f32(&whole, "e", &[1]).is_ok());
    }
}
