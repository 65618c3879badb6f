//! The bundle that is fitted, and its copy with thresholds.

use crate::cli::bundle::PolicyArguments;
use crate::cli::error::{CliError, write as write_file};
use endplate_policies::{
    Bundle, BundleSource, Decoding, Pruning, Skipping, THRESHOLDS_FILE, TRIGRAMS_FILE, Thresholds, Trigrams,
};
use sha2::{Digest as _, Sha256};
use std::path::Path;

const POLICY_FILE: &str = "policy.toml";

/// Opens the bundle; a way of decoding, skipping or pruning given on the command line is refused, since every one is tried.
pub(super) fn without_thresholds(policy: &PolicyArguments) -> Result<Bundle, CliError> {
    if policy.decoding.is_some() || policy.skipping.is_some() || policy.pruning.is_some() {
        return Err(CliError::Input(
            "--decoding, --skipping, --pruning: every way is tried when thresholds are fitted: leave them out"
                .to_owned(),
        ));
    }
    let mut bundle = policy.open()?;
    if bundle.spec().family.has_tokens() {
        bundle.set_decoding(Decoding::default()).map_err(|error| CliError::Refused(error.to_string()))?;
    }
    bundle.set_skipping(Skipping::Off).map_err(|error| CliError::Refused(error.to_string()))?;
    bundle.set_pruning(Pruning::default()).map_err(|error| CliError::Refused(error.to_string()))?;
    Ok(bundle)
}

/// Writes every file of the bundle into `folder`, and the thresholds; then opens it, so that what was written is believed.
pub(super) fn write(
    bundle: &Bundle,
    fitted: &Thresholds,
    trigrams: Option<&Trigrams>,
    folder: &Path,
) -> Result<(), CliError> {
    let text = bundle.source().read(POLICY_FILE).map_err(CliError::input)?;
    let text = String::from_utf8(text).map_err(CliError::input)?;
    let mut added = vec![(THRESHOLDS_FILE, fitted.to_toml_string().map_err(CliError::failed)?.into_bytes())];
    added.extend(trigrams.map(|table| (TRIGRAMS_FILE, table.to_bytes())));
    let text = listed(&text, &added);
    let make = |path: &Path| {
        std::fs::create_dir_all(path).map_err(|error| CliError::Input(format!("{}: {error}", path.display())))
    };
    make(folder)?;
    for name in bundle.spec().files.keys().filter(|name| ![THRESHOLDS_FILE, TRIGRAMS_FILE].contains(&name.as_str())) {
        let path = folder.join(name);
        path.parent().map_or(Ok(()), make)?;
        write_file(&path, bundle.file(name).map_err(CliError::failed)?)?;
    }
    for (name, bytes) in &added {
        write_file(&folder.join(name), bytes)?;
    }
    write_file(&folder.join(POLICY_FILE), text)?;
    Bundle::open(BundleSource::Directory(folder.to_owned()))
        .map(drop)
        .map_err(|error| CliError::Failed(format!("{}: {error}", folder.display())))
}

/// The description with these files in `[files]`, in place of older ones.
fn listed(text: &str, added: &[(&str, Vec<u8>)]) -> String {
    let is_old =
        |line: &str| [THRESHOLDS_FILE, TRIGRAMS_FILE].iter().any(|name| line.starts_with(&format!("\"{name}\" =")));
    let mut out = String::new();
    for line in text.lines().filter(|line| !is_old(line)) {
        out.push_str(line);
        out.push('\n');
        if line.trim() == "[files]" {
            for (name, bytes) in added {
                let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                out.push_str(&format!("\"{name}\" = \"{digest}\"\n"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_once() {
        let added = [(THRESHOLDS_FILE, b"one".to_vec())];
        let once = listed("a = 1\n\n[files]\n\"x\" = \"y\"\n", &added);
        let again = listed(&once, &[(THRESHOLDS_FILE, b"two".to_vec())]);
        assert_eq!(once.matches(THRESHOLDS_FILE).count(), 1);
        assert_eq!(again.matches(THRESHOLDS_FILE).count(), 1);
        assert!(again.contains("\"x\" = \"y\"") && again != once);
    }
}
