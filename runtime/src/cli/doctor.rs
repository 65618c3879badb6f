//! `endplate doctor`: what this machine, its engines and a bundle can do.

use super::bundle::{EngineName, PolicyArguments};
use super::error::CliError;
use clap::Args;
use endplate_policies::load_policy;
use endplate_runtime::realtime;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `endplate doctor`.
#[derive(Args)]
pub struct DoctorArguments {
    /// Bundle to check; without it, the built-in demonstration policy.
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// ONNX Runtime library to try.
    #[arg(long, value_name = "FILE")]
    ort_library: Option<PathBuf>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

struct Line {
    what: &'static str,
    pass: bool,
    /// Whether the built-in demonstration needs it.
    required: bool,
    found: String,
    fix: &'static str,
}

/// Prints one line a check; fails when something required does.
pub fn doctor(arguments: &DoctorArguments) -> Result<(), CliError> {
    let policy = |engine| PolicyArguments {
        bundle: arguments.bundle.clone(),
        engine,
        ort_library: arguments.ort_library.clone(),
        decoding: None,
    };
    let bundle = policy(EngineName::Tract).open();
    let mut lines = vec![Line {
        what: "bundle",
        pass: bundle.is_ok(),
        required: true,
        found: match &bundle {
            Ok(bundle) => format!(
                "{} ({}), family {}, {} files with matching digests",
                bundle.spec().name,
                &bundle.digest()[..12],
                bundle.spec().family.name(),
                bundle.spec().files.len()
            ),
            Err(error) => error.to_string(),
        },
        fix: "export or copy the bundle again",
    }];
    for (engine, what, fix) in [
        (EngineName::Tract, "engine tract", "use a bundle whose [engines] lists tract"),
        (EngineName::Ort, "engine ort", "pip install onnxruntime, or name a library with --ort-library"),
    ] {
        let declared = bundle.as_ref().ok().is_some_and(|bundle| bundle.spec().engines.contains_key(name_of(engine)));
        let tried = match &bundle {
            Ok(bundle) => {
                policy(engine).engine().and_then(|choice| load_policy(bundle, choice).map_err(CliError::input))
            }
            Err(_) => Err(CliError::Input("no bundle to try it on".to_owned())),
        };
        lines.push(Line {
            what,
            pass: tried.is_ok(),
            required: engine == EngineName::Tract && declared,
            found: match tried {
                Ok(loaded) => {
                    let library = if loaded.engine.library.is_empty() { "built in" } else { &loaded.engine.library };
                    format!(
                        "{} ({library}), providers {}, golden samples met: joints within {:.1e} rad",
                        loaded.engine.version,
                        loaded.engine.providers.join(", "),
                        loaded.golden.action_rad
                    )
                }
                Err(error) => error.to_string(),
            },
            fix,
        });
    }
    let rights = std::thread::spawn(|| {
        let rights = realtime::request();
        realtime::release();
        rights
    })
    .join()
    .map_err(|_| CliError::Failed("the real-time probe panicked".to_owned()))?;
    lines.push(Line {
        what: "real-time rights",
        pass: rights.is_granted(),
        required: false,
        found: rights.describe(),
        fix: "run as root, or grant CAP_SYS_NICE and CAP_IPC_LOCK (LimitRTPRIO and LimitMEMLOCK in a systemd unit)",
    });
    for line in &lines {
        if arguments.json {
            let Line { what, pass, required, found, fix } = line;
            println!("{}", json!({"check": what, "pass": pass, "required": required, "found": found, "fix": fix}));
        } else {
            let mark = if line.pass { "pass" } else { "FAIL" };
            println!("{mark}  {}: {}", line.what, line.found);
            if !line.pass {
                println!("      fix: {}", line.fix);
            }
        }
    }
    match lines.iter().find(|line| line.required && !line.pass) {
        None => Ok(()),
        Some(line) => Err(CliError::Engine(format!("{} is needed and not usable", line.what))),
    }
}

fn name_of(engine: EngineName) -> &'static str {
    match engine {
        EngineName::Tract => "tract",
        EngineName::Ort => "ort",
    }
}
