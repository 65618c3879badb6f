//! Streams one `.npy` array (format 1.0, C order) whose length is known only at the end.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// Header with its padding, bytes: room for any length.
const HEADER: usize = 128;

/// Element type of an array.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Dtype {
    U8,
    U32,
    F32,
}

impl Dtype {
    fn descr(self) -> &'static str {
        match self {
            Self::U8 => "|u1",
            Self::U32 => "<u4",
            Self::F32 => "<f4",
        }
    }
}

/// An open array of shape `[N, row…]`.
pub(crate) struct NpyWriter {
    file: BufWriter<File>,
    dtype: Dtype,
    row: &'static [usize],
    bytes: Vec<u8>,
}

impl NpyWriter {
    pub(crate) fn create(path: &Path, dtype: Dtype, row: &'static [usize]) -> std::io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&header(dtype, 0, row)?)?;
        Ok(Self { file, dtype, row, bytes: Vec::new() })
    }

    pub(crate) fn push_u8(&mut self, values: &[u8]) -> std::io::Result<()> {
        self.file.write_all(values)
    }

    pub(crate) fn push_u32(&mut self, value: u32) -> std::io::Result<()> {
        self.file.write_all(&value.to_le_bytes())
    }

    pub(crate) fn push_f32(&mut self, values: &[f32]) -> std::io::Result<()> {
        self.bytes.clear();
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.file.write_all(&self.bytes)
    }

    /// Writes the final length `n` into the header and closes the file.
    pub(crate) fn finish(mut self, n: usize) -> std::io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header(self.dtype, n, self.row)?)?;
        self.file.flush()
    }
}

fn header(dtype: Dtype, n: usize, row: &[usize]) -> std::io::Result<Vec<u8>> {
    let row: String = row.iter().map(|size| format!("{size}, ")).collect();
    let text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({n}, {row}), }}", dtype.descr());
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(((HEADER - 10) as u16).to_le_bytes());
    out.extend(text.as_bytes());
    if out.len() >= HEADER {
        return Err(std::io::Error::other("npy header exceeds its reserved length"));
    }
    out.resize(HEADER - 1, b' ');
    out.push(b'\n');
    Ok(out)
}
