//! `endplate doctor`: what this machine, its engines and a bundle can do.

use super::bundle::{EngineName, PolicyArguments};
use super::error::CliError;
use clap::Args;
use core::time::Duration;
use endplate_hal::RealtimeSpec;
use endplate_policies::load_policy;
use endplate_runtime::power::PowerState;
use endplate_runtime::realtime;
use serde_json::json;
use std::path::PathBuf;

/// A touch that takes longer on average is a host's doing.
const SLOW_TOUCH: Duration = Duration::from_micros(3);

/// Arguments of `endplate doctor`.
#[derive(Args)]
pub struct DoctorArguments {
    /// Bundle to check; without it, the built-in demonstration policy.
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// ONNX Runtime library to try.
    #[arg(long, value_name = "FILE")]
    ort_library: Option<PathBuf>,
    #[command(flatten)]
    robot: super::doctor_robot::RobotDoctorArguments,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Who needs what a line is about.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum Need {
    /// The bundle cannot run without it.
    Required,
    /// A robot should not run without it.
    Advised,
    /// Only some machines have it.
    Optional,
}

/// One check.
pub(super) struct Line {
    pub what: &'static str,
    pub pass: bool,
    pub need: Need,
    pub found: String,
    pub fix: &'static str,
}

/// Prints one line a check; fails when something required does.
pub fn doctor(arguments: &DoctorArguments) -> Result<(), CliError> {
    let policy = |engine| PolicyArguments {
        bundle: arguments.bundle.clone(),
        engine,
        ort_library: arguments.ort_library.clone(),
        ..PolicyArguments::default()
    };
    let bundle = policy(EngineName::Tract).open();
    let mut lines = vec![Line {
        what: "bundle",
        pass: bundle.is_ok(),
        need: Need::Required,
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
            need: if engine == EngineName::Tract && declared { Need::Required } else { Need::Advised },
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
    #[cfg(feature = "ort")]
    lines.extend(super::doctor_nvidia::lines(arguments.ort_library.as_ref()));
    let rights = realtime::probe(&RealtimeSpec::default());
    lines.push(Line {
        what: "real-time rights",
        pass: rights.is_granted(),
        need: Need::Advised,
        found: rights.describe(),
        fix: "run as root, or grant CAP_SYS_NICE and CAP_IPC_LOCK (LimitRTPRIO and LimitMEMLOCK in a systemd unit)",
    });
    if let Some(touch) = realtime::touch_after_rest() {
        lines.push(Line {
            what: "memory at hand",
            pass: touch < SLOW_TOUCH,
            need: Need::Advised,
            found: format!(
                "touching a page that was left alone for a second takes {:.1} us",
                touch.as_secs_f64() * 1e6
            ),
            fix: "a host takes memory from this machine: huge_pages = true under [control.realtime] of the robot file",
        });
    }
    let power = PowerState::read();
    lines.push(Line {
        what: "thermal and power state",
        pass: power.is_shown() && power.throttling().is_empty(),
        need: if power.is_shown() { Need::Advised } else { Need::Optional },
        found: power.describe(),
        fix: "cool the machine, give it its full supply, or choose another power mode (nvpmodel on a Jetson)",
    });
    lines.extend(super::doctor_robot::lines(&arguments.robot, bundle.as_ref().ok(), &policy(EngineName::Tract))?);
    for line in &lines {
        if arguments.json {
            let Line { what, pass, need, found, fix } = line;
            let required = *need == Need::Required;
            say!("{}", json!({"check": what, "pass": pass, "required": required, "found": found, "fix": fix}));
        } else {
            let mark = match (line.pass, line.need) {
                (true, _) => "pass",
                (false, Need::Optional) => "none",
                (false, _) => "FAIL",
            };
            say!("{mark}  {}: {}", line.what, line.found);
            if !line.pass {
                say!("      fix: {}", line.fix);
            }
        }
    }
    match lines.iter().find(|line| line.need == Need::Required && !line.pass) {
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
