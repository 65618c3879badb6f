//! Where the ONNX Runtime library comes from.
//!
//! Search order: the configuration, `ORT_DYLIB_PATH`, the active Python environment, `python3`'s packages, the
//! system's library folders. A library that was named explicitly and does not exist is an error; the search never
//! falls through it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::engine::{EngineError, LibraryError};

const VARIABLE: &str = "ORT_DYLIB_PATH";
const STEM: &str = if cfg!(target_os = "macos") { "libonnxruntime" } else { "libonnxruntime.so" };

/// Who named the library.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The caller's configuration.
    Configuration,
    /// The variable `ORT_DYLIB_PATH`.
    Variable,
    /// The active Python environment (`VIRTUAL_ENV`).
    VirtualEnvironment,
    /// The packages of `python3`.
    Python,
    /// A library folder of the system.
    System,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "the configuration",
            Self::Variable => VARIABLE,
            Self::VirtualEnvironment => "VIRTUAL_ENV",
            Self::Python => "python3's packages",
            Self::System => "the system",
        })
    }
}

/// A library file and who named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// Who named it.
    pub origin: Origin,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {})", self.path.display(), self.origin)
    }
}

/// Finds the library to load. Starts `python3` when nothing earlier names one: start-up only.
///
/// # Errors
/// [`LibraryError::NoSuchFile`] for a named library that does not exist, [`LibraryError::Missing`] with the places
/// searched.
pub fn find_library(configured: Option<&Path>) -> Result<Found, LibraryError> {
    if let Some(path) = configured {
        return named(path, Origin::Configuration, "the configuration");
    }
    if let Some(path) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        return named(Path::new(&path), Origin::Variable, VARIABLE);
    }
    let mut looked = vec![VARIABLE.to_owned()];
    match std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()) {
        Some(root) => {
            let root = PathBuf::from(root);
            looked.push(root.display().to_string());
            if let Some(path) = in_environment(&root) {
                return Ok(Found { path, origin: Origin::VirtualEnvironment });
            }
        }
        None => looked.push("VIRTUAL_ENV".to_owned()),
    }
    looked.push("python3's packages".to_owned());
    if let Some(path) = python_package() {
        return Ok(Found { path, origin: Origin::Python });
    }
    for folder in system_folders() {
        if let Some(path) = newest_in(&folder) {
            return Ok(Found { path, origin: Origin::System });
        }
        looked.push(folder.display().to_string());
    }
    Err(LibraryError::Missing { looked })
}

fn named(path: &Path, origin: Origin, words: &'static str) -> Result<Found, LibraryError> {
    if path.is_file() {
        Ok(Found { path: path.to_owned(), origin })
    } else {
        Err(LibraryError::NoSuchFile { path: path.display().to_string(), origin: words })
    }
}

/// `<root>/lib/python3.*/site-packages/onnxruntime/capi/libonnxruntime.so*`
fn in_environment(root: &Path) -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> =
        std::fs::read_dir(root.join("lib")).ok()?.flatten().map(|entry| entry.path()).collect();
    versions.sort();
    versions.iter().rev().find_map(|version| newest_in(&version.join("site-packages/onnxruntime/capi")))
}

/// Asks `python3` where the package lies, without importing it.
fn python_package() -> Option<PathBuf> {
    const QUESTION: &str = "import importlib.util as u; s = u.find_spec('onnxruntime'); print(s.origin if s else '')";
    let answer =
        Command::new("python3").args(["-c", QUESTION]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let origin = String::from_utf8(answer.stdout).ok()?;
    newest_in(&Path::new(origin.trim()).parent()?.join("capi"))
}

fn system_folders() -> Vec<PathBuf> {
    let architecture = std::env::consts::ARCH;
    let mut folders: Vec<PathBuf> =
        std::env::var_os("LD_LIBRARY_PATH").map(|paths| std::env::split_paths(&paths).collect()).unwrap_or_default();
    folders.extend(["/usr/local/lib", "/usr/lib", "/opt/onnxruntime/lib"].map(PathBuf::from));
    folders.push(PathBuf::from(format!("/usr/lib/{architecture}-linux-gnu")));
    folders
}

/// The last by name of the library files in a folder: a versioned name sorts after the bare one.
fn newest_in(folder: &Path) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| {
        path.is_file() && path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(STEM))
    });
    files.sort();
    files.pop()
}

/// The library of this process.
pub(super) struct Loaded {
    pub(super) found: Found,
    pub(super) version: String,
    pub(super) environment: ort::environment::Environment,
}

/// ONNX Runtime allows one environment in a process, and a library cannot be unloaded.
static LOADED: OnceLock<Loaded> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// Loads the library, or returns the one already loaded from the same file.
pub(super) fn load(found: Found) -> Result<&'static Loaded, EngineError> {
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = std::fs::canonicalize(&found.path).unwrap_or_else(|_| found.path.clone());
    if let Some(loaded) = LOADED.get() {
        if loaded.found.path == path {
            return Ok(loaded);
        }
        let (loaded, requested) = (loaded.found.path.display().to_string(), path.display().to_string());
        return Err(LibraryError::AlreadyLoaded { loaded, requested }.into());
    }
    let text = path.display().to_string();
    let builder = ort::init_from(&path).map_err(|error| match error {
        ort::LoadDynamicError::BadVersion { version_str, .. } => {
            LibraryError::TooOld { path: text.clone(), version: version_str, needed: ort::MINOR_VERSION }
        }
        other => LibraryError::Unloadable { path: text.clone(), detail: other.to_string() },
    })?;
    let environment = builder
        .with_name("endplate")
        .with_telemetry(false)
        .build()
        .map_err(|error| LibraryError::Unloadable { path: text.clone(), detail: error.to_string() })?;
    let version = version::of(&path).unwrap_or_else(|| "of unknown version".to_owned());
    let found = Found { path, origin: found.origin };
    Ok(LOADED.get_or_init(|| Loaded { found, version, environment }))
}

/// The version string of a loaded library, which `ort` keeps to itself.
#[cfg(unix)]
mod version {
    use std::ffi::{CStr, CString, c_char, c_int, c_void};
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    unsafe extern "C" {
        fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
        fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    }

    const RTLD_LAZY: c_int = 1;

    /// Reads the version of the library at `path`, which must already have been loaded and checked by `ort`.
    pub(super) fn of(path: &Path) -> Option<String> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        // SAFETY: `path` is a NUL-terminated string. The library is already loaded, so this only adds a reference to
        // it and runs no initialiser; the handle is never closed, so pointers into the library stay valid.
        let handle = unsafe { dlopen(path.as_ptr(), RTLD_LAZY) };
        if handle.is_null() {
            return None;
        }
        // SAFETY: `handle` is a live handle and the name is NUL-terminated.
        let symbol = unsafe { dlsym(handle, c"OrtGetApiBase".as_ptr()) };
        if symbol.is_null() {
            return None;
        }
        // SAFETY: `OrtGetApiBase` has this signature in every ONNX Runtime; `ort` called it through the same type when
        // it loaded the library.
        let get_base: unsafe extern "C" fn() -> *const ort::sys::OrtApiBase = unsafe { std::mem::transmute(symbol) };
        // SAFETY: as above; the returned base is a static of the library.
        let base = unsafe { get_base().as_ref() }?;
        // SAFETY: the function takes no arguments and returns a static string.
        let text = unsafe { (base.GetVersionString)() };
        if text.is_null() {
            return None;
        }
        // SAFETY: `text` is a static NUL-terminated string of the library.
        unsafe { CStr::from_ptr(text) }.to_str().ok().map(str::to_owned)
    }
}

#[cfg(not(unix))]
mod version {
    pub(super) fn of(_: &std::path::Path) -> Option<String> {
        None
    }
}
