//! Opening bundles and robots for the commands: the built-in ones, or the files named.

use super::error::{CliError, read_text};
use clap::{Args, ValueEnum};
use endplate_hal::{RobotSpec, robots};
#[cfg(feature = "ort")]
use endplate_policies::OrtOptions;
use endplate_policies::{Bundle, BundleSource, Decoding, EngineChoice, LoadError, Loaded, check_robot, load_policy};
use include_dir::{Dir, include_dir};
use std::path::PathBuf;
use std::sync::OnceLock;

static DEMONSTRATION: Dir = include_dir!("$CARGO_MANIFEST_DIR/../policies/bundles/pick_cube_fast");

/// Which bundle and engine.
#[derive(Args, Clone, Default)]
pub struct PolicyArguments {
    /// Folder of the bundle; without it, the built-in demonstration policy.
    #[arg(long)]
    pub bundle: Option<PathBuf>,
    /// Engine to run it on.
    #[arg(long, value_enum, default_value_t)]
    pub engine: EngineName,
    /// ONNX Runtime library for `--engine ort`; without it, `ORT_DYLIB_PATH`, then a Python environment's
    /// `onnxruntime`, then system paths.
    #[arg(long, value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
    /// How action tokens are generated, instead of the bundle's way: `plain`, or `previous`, `trigram`, `jacobi`,
    /// `bin_distance:R` and `early_exit:N` joined with `+`.
    #[arg(long, value_name = "NAME")]
    pub decoding: Option<Decoding>,
}

/// An engine by name.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// Pure Rust, nothing to install.
    #[default]
    Tract,
    /// ONNX Runtime, from a library of this machine.
    Ort,
}

impl PolicyArguments {
    /// The bundle's files.
    pub fn source(&self) -> BundleSource {
        self.bundle.clone().map_or_else(|| BundleSource::Embedded(demonstration()), BundleSource::Directory)
    }

    /// Opens the bundle.
    pub fn open(&self) -> Result<Bundle, CliError> {
        let source = self.source();
        let mut bundle =
            Bundle::open(source.clone()).map_err(|error| CliError::Refused(format!("{source}: {error}")))?;
        if let Some(decoding) = self.decoding {
            bundle
                .set_decoding(decoding)
                .map_err(|error| CliError::Refused(format!("{source}: --decoding {decoding}: {error}")))?;
        }
        Ok(bundle)
    }

    /// Opens the bundle and loads its policy on the engine.
    pub fn load(&self) -> Result<(Bundle, Loaded), CliError> {
        let bundle = self.open()?;
        let loaded = load_policy(&bundle, self.engine()?).map_err(|error| match error {
            LoadError::Engine(error) => CliError::Engine(error.to_string()),
            error => CliError::Refused(format!("{}: {error}", bundle.source())),
        })?;
        Ok((bundle, loaded))
    }

    /// The engine asked for, if it is built in.
    pub fn engine(&self) -> Result<EngineChoice, CliError> {
        match self.engine {
            #[cfg(feature = "tract")]
            EngineName::Tract => Ok(EngineChoice::Tract),
            #[cfg(feature = "ort")]
            EngineName::Ort => {
                let options = OrtOptions { library: self.ort_library.clone(), ..OrtOptions::default() };
                Ok(EngineChoice::Ort(options))
            }
            #[allow(unreachable_patterns)]
            engine => Err(CliError::Engine(format!("--engine {engine:?}: not in this build; build with its feature"))),
        }
    }
}

/// The built-in demonstration bundle.
fn demonstration() -> &'static [(&'static str, &'static [u8])] {
    static FILES: OnceLock<Vec<(&'static str, &'static [u8])>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut files = Vec::new();
        let mut folders = vec![&DEMONSTRATION];
        while let Some(folder) = folders.pop() {
            folders.extend(folder.dirs());
            files.extend(folder.files().filter_map(|file| Some((file.path().to_str()?, file.contents()))));
        }
        files
    })
}

/// The robot described in a file, or the built-in simulated one.
pub fn open_robot(file: Option<&PathBuf>) -> Result<RobotSpec, CliError> {
    match file {
        None => RobotSpec::from_toml_str(robots::SO101_SIM, "the built-in robot"),
        Some(path) => RobotSpec::from_toml_str(&read_text(path)?, &path.display().to_string()),
    }
    .map_err(CliError::input)
}

/// Refuses a bundle that does not fit a robot, with one line a mismatch.
pub fn require_fit(bundle: &Bundle, robot: &RobotSpec) -> Result<(), CliError> {
    let mismatches = check_robot(bundle.spec(), robot);
    if mismatches.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = mismatches.iter().map(|mismatch| format!("\n  {mismatch}")).collect();
    Err(CliError::Refused(format!("{} does not fit {}:{}", bundle.source(), robot.source, lines.concat())))
}
