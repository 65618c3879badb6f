//! Where a bundle's files are read from.

use std::fmt;
use std::path::{Path, PathBuf};

use super::BundleError;

/// The files of a bundle: a folder, or slices compiled into the binary.
#[derive(Clone, Debug)]
pub enum BundleSource {
    /// A folder.
    Directory(PathBuf),
    /// `(path, contents)`, paths relative with `/` separators.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl fmt::Display for BundleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Embedded(_) => f.write_str("the built-in bundle"),
        }
    }
}

impl BundleSource {
    /// The contents of the file at `path`, relative with `/` separators.
    ///
    /// # Errors
    /// [`BundleError::Read`] naming the file.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, BundleError> {
        let failed = |message: String| BundleError::Read { file: path.to_owned(), message };
        match self {
            Self::Directory(root) => std::fs::read(root.join(path)).map_err(|error| failed(error.to_string())),
            Self::Embedded(files) => files
                .iter()
                .find(|(name, _)| *name == path)
                .map(|(_, bytes)| bytes.to_vec())
                .ok_or_else(|| failed("no such file in the built-in bundle".to_owned())),
        }
    }

    /// The paths of all files, sorted.
    ///
    /// # Errors
    /// [`BundleError::Read`] for a folder that cannot be listed.
    pub fn list(&self) -> Result<Vec<String>, BundleError> {
        let mut paths = Vec::new();
        match self {
            Self::Directory(root) => walk(root, "", &mut paths)?,
            Self::Embedded(files) => paths.extend(files.iter().map(|(name, _)| (*name).to_owned())),
        }
        paths.sort();
        Ok(paths)
    }
}

fn walk(folder: &Path, prefix: &str, paths: &mut Vec<String>) -> Result<(), BundleError> {
    let failed =
        |error: std::io::Error| BundleError::Read { file: folder.display().to_string(), message: error.to_string() };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // `metadata` follows links, so that a linked file is checked like any other.
        if std::fs::metadata(entry.path()).map_err(failed)?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), paths)?;
        } else {
            paths.push(name);
        }
    }
    Ok(())
}
