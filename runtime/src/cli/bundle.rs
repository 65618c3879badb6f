//! Opening bundles and robots for the commands: the built-in ones, or the files named.

use super::error::CliError;
#[cfg(feature = "ort")]
use super::error::read_text;
use clap::{Args, ValueEnum};
use core::time::Duration;
use endplate_hal::{RobotSpec, robots};
#[cfg(feature = "ort")]
use endplate_policies::OrtOptions;
#[cfg(feature = "ort")]
use endplate_policies::engine::{EngineFile, ProviderList};
use endplate_policies::{
    Bundle, BundleSource, Decoding, EngineChoice, EngineRuns, LoadError, Loaded, Policy, Pruning, Skipping, bind,
    check_robot, load_policy, load_policy_timed,
};
use include_dir::{Dir, include_dir};
use indicatif::ProgressBar;
#[cfg(feature = "ort")]
use std::path::Path;
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
    /// Execution providers for `--engine ort`, in order, such as `tensorrt?,cuda,cpu`: one with `?` may be missing, and
    /// nodes run on the CPU only where `cpu` stands in the list; without it, `cpu`.
    #[arg(long, value_name = "LIST", conflicts_with = "engine_config")]
    pub providers: Option<String>,
    /// File with library, engine cache and providers with their options for `--engine ort` (`policies/PROVIDERS.md`).
    #[arg(long, value_name = "FILE")]
    pub engine_config: Option<PathBuf>,
    /// How action tokens are generated, instead of the bundle's way: `plain`, or `previous`, `trigram`, `jacobi`,
    /// `shallow`, `tree`, `drafts:N`, `bin_distance:R`, `early_exit:N`, `layer_exit:P` and `temperature:T` joined with `+`
    /// (`policies/ACCELERATION.md`).
    #[arg(long, value_name = "NAME")]
    pub decoding: Option<Decoding>,
    /// When the model is not asked, instead of the bundle's way: `off`, `reuse` or `extrapolate`.
    #[arg(long, value_name = "WAY")]
    pub skipping: Option<Skipping>,
    /// Which visual tokens are left out, instead of the bundle's way: `off`, `cache:N`, or `ics:N` and, joined with `+`,
    /// `edges` and `planned`.
    #[arg(long, value_name = "WAY")]
    pub pruning: Option<Pruning>,
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
        if let Some(skipping) = self.skipping {
            bundle
                .set_skipping(skipping)
                .map_err(|error| CliError::Refused(format!("{source}: --skipping {skipping}: {error}")))?;
        }
        if let Some(pruning) = self.pruning {
            bundle
                .set_pruning(pruning)
                .map_err(|error| CliError::Refused(format!("{source}: --pruning {pruning}: {error}")))?;
        }
        Ok(bundle)
    }

    /// Opens the bundle and loads its policy on the engine.
    pub fn load(&self) -> Result<(Bundle, Loaded), CliError> {
        let (bundle, loaded) = self.load_with(load_policy)?;
        say_skipped(&loaded);
        Ok((bundle, loaded))
    }

    /// As [`load`](Self::load), with every run of the engine timed; see [`load_policy_timed`] for `is_portable`.
    pub fn load_timed(&self, is_portable: bool) -> Result<(Bundle, Loaded, EngineRuns), CliError> {
        let (bundle, (loaded, runs)) =
            self.load_with(|bundle, choice| load_policy_timed(bundle, choice, is_portable))?;
        say_skipped(&loaded);
        Ok((bundle, loaded, runs))
    }

    fn load_with<T>(
        &self,
        load: impl FnOnce(&Bundle, EngineChoice) -> Result<T, LoadError>,
    ) -> Result<(Bundle, T), CliError> {
        let bundle = self.open()?;
        super::startup::mark("bundle_checked");
        let choice = self.engine()?;
        let spinner = choice.gpu().map(|_| {
            let words = "loading the graphs; the first start on this machine builds engines, which can take minutes";
            let spinner = ProgressBar::new_spinner().with_message(words);
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        let loaded = load(&bundle, choice);
        if let Some(spinner) = spinner {
            spinner.finish_and_clear();
        }
        let loaded = loaded.map_err(|error| match error {
            LoadError::Engine(error) => CliError::Engine(error.to_string()),
            error => CliError::Refused(format!("{}: {error}", bundle.source())),
        })?;
        super::startup::mark("policy_loaded");
        Ok((bundle, loaded))
    }

    /// The engine asked for, if it is built in.
    pub fn engine(&self) -> Result<EngineChoice, CliError> {
        if self.engine != EngineName::Ort && (self.providers.is_some() || self.engine_config.is_some()) {
            return Err(CliError::Input(
                "--providers and --engine-config are about ONNX Runtime: add `--engine ort`, or leave them out".into(),
            ));
        }
        match self.engine {
            #[cfg(feature = "tract")]
            EngineName::Tract => Ok(EngineChoice::Tract),
            #[cfg(feature = "ort")]
            EngineName::Ort => {
                let mut options = match &self.engine_config {
                    None => OrtOptions::default(),
                    Some(path) => {
                        let folder = path.parent().unwrap_or(Path::new("."));
                        let file = EngineFile::from_toml_str(&read_text(path)?, &path.display().to_string(), folder)
                            .map_err(CliError::input)?;
                        OrtOptions::from_file(file)
                    }
                };
                if let Some(list) = &self.providers {
                    options.providers = ProviderList::from_names(list, "--providers").map_err(CliError::input)?;
                }
                if let Some(library) = &self.ort_library {
                    options.library = Some(library.clone());
                }
                Ok(EngineChoice::Ort(options))
            }
            #[allow(unreachable_patterns)]
            engine => Err(CliError::Engine(format!("--engine {engine:?}: not in this build; build with its feature"))),
        }
    }
}

fn say_skipped(loaded: &Loaded) {
    for reason in &loaded.engine.skipped {
        remark!("preferred execution provider left out: {reason}");
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

/// The robot described in a file, or the built-in simulated one. A URDF or MJCF that it names lies beside it.
pub fn open_robot(file: Option<&PathBuf>) -> Result<RobotSpec, CliError> {
    match file {
        None => RobotSpec::from_toml_str(robots::SO101_SIM, "the built-in robot"),
        Some(path) => return super::robot_file::open(path),
    }
    .map_err(CliError::input)
}

/// A policy that commands the joints of `robot`; one that moves the tool does so through the robot's kinematics.
pub fn bound(policy: Box<dyn Policy>, robot: &RobotSpec) -> Result<Box<dyn Policy>, CliError> {
    bind(policy, robot).map_err(|mismatches| {
        let lines: Vec<String> = mismatches.iter().map(|mismatch| format!("\n  {mismatch}")).collect();
        CliError::Refused(format!("the policy does not fit {}:{}", robot.source, lines.concat()))
    })
}

/// Refuses a bundle that does not fit a robot, with one line a mismatch.
pub fn require_fit(bundle: &Bundle, robot: &RobotSpec) -> Result<(), CliError> {
    let mismatches = check_robot(bundle.spec(), robot).into_iter().map(|mismatch| mismatch.to_string());
    let lines: Vec<String> = mismatches
        .chain(super::feasibility::problems(bundle.spec(), robot))
        .map(|mismatch| format!("\n  {mismatch}"))
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    Err(CliError::Refused(format!("{} does not fit {}:{}", bundle.source(), robot.source, lines.concat())))
}
