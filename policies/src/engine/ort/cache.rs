//! Where built TensorRT engines and their timings are kept between starts.
//!
//! An engine fits one graph on one device with one version of everything, and a foreign one is at best refused by
//! TensorRT and at worst slow or wrong. So each combination has a folder of its own, named by its digest, with a file
//! that says what it is for; a folder whose file says something else was copied or renamed by hand, and is refused.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::engine::EngineError;

/// The file in a cache folder that says what its engines are for.
const KEY_FILE: &str = "endplate-cache.txt";

/// What engines depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CacheKey {
    pub bundle_digest: String,
    pub device: String,
    pub library: String,
    pub provider: String,
}

impl CacheKey {
    fn text(&self) -> String {
        let Self { bundle_digest, device, library, provider } = self;
        format!("bundle {bundle_digest}\ndevice {device}\nlibrary {library}\nprovider {provider}\n")
    }

    /// The folder's name: the first 32 digits of the digest of everything in the key.
    fn folder(&self) -> String {
        Sha256::digest(self.text()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The folder for a key under `root`, made where it does not exist.
///
/// # Errors
/// [`EngineError::Cache`] for a folder that cannot be made or written, or that is another key's.
pub(super) fn folder_for(root: &Path, key: &CacheKey) -> Result<PathBuf, EngineError> {
    let folder = root.join(key.folder());
    let failed = |what: &str, error: &dyn std::fmt::Display| EngineError::Cache {
        folder: folder.display().to_string(),
        detail: format!("{what}: {error}"),
        remedy: "name a folder that can be written with `cache` in the engine configuration".to_owned(),
    };
    fs::create_dir_all(&folder).map_err(|error| failed("cannot be made", &error))?;
    let file = folder.join(KEY_FILE);
    match fs::read_to_string(&file) {
        Ok(text) if text == key.text() => Ok(folder),
        Ok(text) => Err(EngineError::Cache {
            folder: folder.display().to_string(),
            detail: format!("its {KEY_FILE} says {text:?}, and this start is {:?}", key.text()),
            remedy: "it was copied or changed by hand: delete the folder, and the engines are built again".to_owned(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Engines without a key came from somewhere else.
            let strangers = fs::read_dir(&folder).map_err(|error| failed("cannot be read", &error))?.count();
            if strangers > 0 {
                return Err(EngineError::Cache {
                    folder: folder.display().to_string(),
                    detail: format!("{strangers} files, but no {KEY_FILE} that says what they are for"),
                    remedy: "delete the folder, and the engines are built again".to_owned(),
                });
            }
            fs::write(&file, key.text()).map_err(|error| failed("cannot be written", &error))?;
            Ok(folder)
        }
        Err(error) => Err(failed("its key cannot be read", &error)),
    }
}

/// Where the cache lies when the configuration does not say: `$XDG_CACHE_HOME/endplate`, or `~/.cache/endplate`.
pub(super) fn default_root() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).map(|base| base.join("endplate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(device: &str) -> CacheKey {
        CacheKey {
            bundle_digest: "0123".to_owned(),
            device: device.to_owned(),
            library: "1.24.2, libnvinfer.so.10.3.0".to_owned(),
            provider: "tensorrt device 0 fp16 workspace None dla None".to_owned(),
        }
    }

    #[test]
    fn each_device_has_a_folder_of_its_own_and_finds_it_again() {
        let root = tempfile::tempdir().unwrap();
        let orin = folder_for(root.path(), &key("Orin")).unwrap();
        fs::write(orin.join("graph.engine"), "built").unwrap();
        assert_ne!(folder_for(root.path(), &key("Thor")).unwrap(), orin);
        assert_eq!(folder_for(root.path(), &key("Orin")).unwrap(), orin);
    }

    #[test]
    fn the_cache_of_another_device_or_of_nobody_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let orin = folder_for(root.path(), &key("Orin")).unwrap();
        let thor = folder_for(root.path(), &key("Thor")).unwrap();
        fs::copy(orin.join(KEY_FILE), thor.join(KEY_FILE)).unwrap();
        let message = folder_for(root.path(), &key("Thor")).unwrap_err().to_string();
        assert!(message.contains("device Orin") && message.contains("delete the folder"), "{message}");
        fs::remove_file(thor.join(KEY_FILE)).unwrap();
        fs::write(thor.join("graph.engine"), "built elsewhere").unwrap();
        let message = folder_for(root.path(), &key("Thor")).unwrap_err().to_string();
        assert!(message.contains("no endplate-cache.txt"), "{message}");
    }

    #[test]
    fn a_root_that_cannot_be_written_says_what_to_set() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = folder_for(file.path(), &key("Orin")).unwrap_err().to_string();
        assert!(message.contains("cannot be made") && message.contains("`cache`"), "{message}");
    }
}
