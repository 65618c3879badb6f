//! What of NVIDIA's is on this machine: devices, driver, libraries, JetPack. Read from files alone, since ONNX Runtime
//! answers "available" with its GPU library and no CUDA at all.

use std::fs;
use std::path::{Path, PathBuf};

/// Libraries the GPU providers load, by the start of their file names.
const LIBRARIES: [&str; 6] =
    ["libcuda.so", "libcudart.so", "libcublas.so", "libcudnn.so", "libnvinfer.so", "libnvonnxparser.so"];

/// NVIDIA's devices, driver and libraries, as far as files show them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Each GPU's model, and its identity where the driver gives one.
    pub devices: Vec<String>,
    /// The driver's version line.
    pub driver: Option<String>,
    /// The Jetson module, on a Jetson.
    pub jetson: Option<String>,
    /// The release of Jetson Linux that JetPack brought.
    pub jetpack: Option<String>,
    /// The libraries found: the start of their names, and the file.
    pub libraries: Vec<(&'static str, PathBuf)>,
}

impl Machine {
    /// Reads this machine.
    pub fn read() -> Self {
        let paths = std::env::var_os("LD_LIBRARY_PATH").map(|paths| std::env::split_paths(&paths).collect());
        Self::read_under(Path::new("/"), paths.unwrap_or_default())
    }

    /// Reads a machine whose files lie under `root`, with library folders of its own beside the usual ones.
    pub fn read_under(root: &Path, mut folders: Vec<PathBuf>) -> Self {
        let text = |path: &str| {
            let text = fs::read_to_string(root.join(path)).ok()?;
            let line = text.trim_end_matches('\0').lines().next()?.trim().to_owned();
            (!line.is_empty()).then_some(line)
        };
        let jetson =
            text("proc/device-tree/model").filter(|model| model.contains("Jetson") || model.contains("NVIDIA"));
        let mut devices: Vec<String> = fs::read_dir(root.join("proc/driver/nvidia/gpus"))
            .map(|entries| entries.flatten().filter_map(|entry| gpu(&entry.path().join("information"))).collect())
            .unwrap_or_default();
        devices.sort();
        devices.extend(jetson.clone());
        let architecture = std::env::consts::ARCH;
        folders.extend(
            [
                format!("usr/lib/{architecture}-linux-gnu"),
                format!("usr/lib/{architecture}-linux-gnu/nvidia"),
                format!("usr/lib/{architecture}-linux-gnu/tegra"),
                "usr/local/cuda/lib64".to_owned(),
                "usr/lib64".to_owned(),
                "usr/lib".to_owned(),
            ]
            .map(|folder| root.join(folder)),
        );
        let libraries = LIBRARIES.into_iter().filter_map(|stem| Some((stem, find(&folders, stem)?))).collect();
        Self {
            devices,
            driver: text("proc/driver/nvidia/version"),
            jetson,
            jetpack: text("etc/nv_tegra_release"),
            libraries,
        }
    }

    /// The file of a library, if it was found.
    pub fn library(&self, stem: &str) -> Option<&Path> {
        self.libraries.iter().find(|(name, _)| *name == stem).map(|(_, path)| path.as_path())
    }

    /// The TensorRT library's file name, which carries its version.
    pub fn tensorrt(&self) -> Option<String> {
        let path = self.library("libnvinfer.so")?;
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Some(path.file_name()?.to_string_lossy().into_owned())
    }

    /// The libraries that were looked for and are not there, of those named.
    pub fn missing<'a>(&self, stems: &[&'a str]) -> Vec<&'a str> {
        stems.iter().copied().filter(|stem| self.library(stem).is_none()).collect()
    }
}

/// `Model:` and `GPU UUID:` of the driver's description of a GPU.
fn gpu(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':').map(|v| v.trim().to_owned()))
    };
    let model = field("Model")?;
    Some(match field("GPU UUID") {
        Some(uuid) => format!("{model} {uuid}"),
        None => model,
    })
}

/// The last by name of the files starting with `stem` in the first folder that has one.
fn find(folders: &[PathBuf], stem: &str) -> Option<PathBuf> {
    folders.iter().find_map(|folder| {
        let mut files: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(stem)));
        files.sort();
        files.pop()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_desktop_shows_its_driver_gpus_and_libraries() {
        let root = tempfile::tempdir().unwrap();
        let gpu = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 42\nGPU UUID: \t GPU-1b2c\nBus Type: \t PCIe\n";
        write(root.path(), "proc/driver/nvidia/gpus/0000:01:00.0/information", gpu);
        write(
            root.path(),
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.1\nGCC\n",
        );
        write(root.path(), "usr/local/cuda/lib64/libcudart.so.12.8.90", "");
        write(root.path(), "opt/trt/libnvinfer.so.10.3.0", "");
        let machine = Machine::read_under(root.path(), vec![root.path().join("opt/trt")]);
        assert_eq!(machine.devices, ["NVIDIA H100 80GB HBM3 GPU-1b2c"]);
        assert!(machine.driver.as_deref().unwrap().contains("570.1"));
        assert_eq!(machine.tensorrt().as_deref(), Some("libnvinfer.so.10.3.0"));
        assert_eq!(machine.missing(&["libcudart.so", "libcudnn.so", "libnvinfer.so"]), ["libcudnn.so"]);
        assert_eq!((machine.jetson, machine.jetpack), (None, None));
    }

    #[test]
    fn a_jetson_shows_its_module_and_release() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0");
        write(root.path(), "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n");
        let machine = Machine::read_under(root.path(), Vec::new());
        assert_eq!(machine.devices, ["NVIDIA Jetson Orin Nano Developer Kit"]);
        assert!(machine.jetpack.unwrap().contains("R36"));
    }

    #[test]
    fn a_machine_without_any_of_it_shows_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Machine::read_under(root.path(), Vec::new()), Machine::default());
    }
}
