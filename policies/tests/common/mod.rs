//! Engines and bundles the suites run on.
#![allow(dead_code)]

pub mod drive;
pub mod golden;

use std::path::{Path, PathBuf};

use endplate_policies::engine::ort::find_library;
use endplate_policies::{EngineChoice, OrtOptions};
use sha2::{Digest as _, Sha256};

/// Every engine that can run here. Without an ONNX Runtime library its part is skipped, and said to be, unless
/// `ENDPLATE_REQUIRE_ORT=1` makes that a failure.
pub fn engines() -> Vec<(&'static str, EngineChoice)> {
    let mut engines = vec![("tract", EngineChoice::Tract)];
    match find_library(None) {
        Ok(_) => engines.push(("ort", EngineChoice::Ort(OrtOptions::default()))),
        Err(error) if std::env::var("ENDPLATE_REQUIRE_ORT").as_deref() == Ok("1") => {
            panic!("ENDPLATE_REQUIRE_ORT=1: {error}")
        }
        Err(error) => println!("SKIPPED on ort: {error}"),
    }
    engines
}

/// The demonstration policy, or the bundle named by `ENDPLATE_TEST_BUNDLE`.
pub fn bundle_path() -> PathBuf {
    std::env::var_os("ENDPLATE_TEST_BUNDLE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/pick_cube_fast"), PathBuf::from)
}

/// One bundle of every family, or only the one named by `ENDPLATE_TEST_BUNDLE`.
pub fn bundle_paths() -> Vec<PathBuf> {
    if std::env::var_os("ENDPLATE_TEST_BUNDLE").is_some() {
        return vec![bundle_path()];
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
    ["pick_cube_fast", "pick_cube_bins", "pick_cube_flow"].map(|name| folder.join(name)).to_vec()
}

/// A copy of a shipped bundle with one graph of any number of rows, as `endplate-block --dynamic` makes it.
pub fn with_rows(name: &str) -> Copy {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = Copy::of(&root.join("bundles").join(name));
    let block = if name == "pick_cube_bins" { 8 } else { 16 };
    for file in ["decode_k1.onnx", &format!("decode_k{block}.onnx"), "prefill.onnx", "thresholds.toml"] {
        if copy.path().join(file).exists() {
            copy.remove(file);
            copy.edit(|text| {
                let line = text.lines().find(|line| line.starts_with(&format!("\"{file}\" = "))).expect("it is listed");
                text.replacen(&format!("{line}\n"), "", 1)
            });
        }
    }
    let graph = std::fs::read(root.join("tests/models").join(format!("{name}_decode.onnx"))).expect("it is committed");
    copy.add("decode.onnx", &graph);
    copy.edit(|text| text.replacen("strategy = ", &format!("rows = [1, {block}, 110]\nstrategy = "), 1));
    copy
}

/// A copy of the bundle that a test may damage.
pub struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    pub fn new() -> Self {
        Self::of(&bundle_path())
    }

    pub fn of(bundle: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(bundle, folder.path());
        Self { folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(file)).expect("the file is there")
    }

    pub fn write(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(file), bytes).expect("the file can be written");
    }

    pub fn remove(&self, file: &str) {
        std::fs::remove_file(self.folder.path().join(file)).expect("the file can be removed");
    }

    /// Edits `policy.toml`; the edit must change something.
    pub fn edit(&self, edit: impl FnOnce(&str) -> String) {
        let before = String::from_utf8(self.read("policy.toml")).expect("text");
        let after = edit(&before);
        assert_ne!(before, after, "the edit found nothing to change");
        self.write("policy.toml", after.as_bytes());
    }

    /// Replaces the first line that starts with `key =`.
    pub fn set(&self, key: &str, value: &str) {
        self.edit(|text| {
            let start = text.lines().find(|line| line.starts_with(&format!("{key} ="))).expect("the key is there");
            text.replacen(start, &format!("{key} = {value}"), 1)
        });
    }

    /// Adds a file and lists its digest.
    pub fn add(&self, file: &str, bytes: &[u8]) {
        self.write(file, bytes);
        let line = format!("[files]\n\"{file}\" = \"{}\"\n", sha256_hex(bytes));
        self.edit(|text| text.replacen("[files]\n", &line, 1));
    }

    /// Adds a file, or replaces it where the bundle has one.
    pub fn set_file(&self, file: &str, bytes: &[u8]) {
        if self.folder.path().join(file).exists() {
            self.replace(file, bytes);
        } else {
            self.add(file, bytes);
        }
    }

    /// Replaces a file and its digest: damage that digests do not catch.
    pub fn replace(&self, file: &str, bytes: &[u8]) {
        let (old, new) = (sha256_hex(&self.read(file)), sha256_hex(bytes));
        self.write(file, bytes);
        self.edit(|text| text.replace(&old, &new));
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the folder can be made");
    for entry in std::fs::read_dir(from).unwrap_or_else(|error| panic!("no bundle at {}: {error}", from.display())) {
        let entry = entry.expect("the folder can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("the file can be copied");
        }
    }
}
