//! Which execution providers to ask ONNX Runtime for, in which order, and what each must give.
//!
//! ONNX Runtime by itself falls back without a word: a provider that cannot start is left out, and nodes that no
//! provider takes go to the CPU. Here nothing falls back unless the list says so. A `required` provider that cannot
//! start is an error; a `preferred` one that cannot start is left out, and reported; nodes run on the CPU only where
//! `cpu` stands in the list.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::EngineError;
use super::rows::ProfileRows;

/// An execution provider this build can ask for.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// TensorRT, part of a library built with it.
    #[serde(rename = "tensorrt")]
    TensorRt,
    /// TensorRT for RTX, a plug-in library of its own.
    #[serde(rename = "tensorrt_rtx")]
    TensorRtRtx,
    /// CUDA, part of a library built with it.
    Cuda,
    /// The CPU, part of every library.
    Cpu,
}

impl Provider {
    /// All of them, fastest first.
    pub const ALL: [Self; 4] = [Self::TensorRt, Self::TensorRtRtx, Self::Cuda, Self::Cpu];

    /// Its name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TensorRt => "tensorrt",
            Self::TensorRtRtx => "tensorrt_rtx",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
        }
    }

    /// ONNX Runtime's name for it.
    pub const fn ort_name(self) -> &'static str {
        match self {
            Self::TensorRt => "TensorrtExecutionProvider",
            Self::TensorRtRtx => "NvTensorRTRTXExecutionProvider",
            Self::Cuda => "CUDAExecutionProvider",
            Self::Cpu => "CPUExecutionProvider",
        }
    }

    /// What a machine needs for it.
    pub(crate) const fn needs(self) -> &'static str {
        match self {
            Self::TensorRt => {
                "an NVIDIA driver, CUDA and TensorRT of the versions the library was built for, and an ONNX Runtime library built with TensorRT (on a Jetson: JetPack's, or your own build; the wheel of PyPI has no code for Orin and Thor)"
            }
            Self::TensorRtRtx => {
                "an NVIDIA RTX GPU with its driver, CUDA, and the plug-in's library named with `library`"
            }
            Self::Cuda => {
                "an NVIDIA driver, CUDA and cuDNN of the versions the library was built for, and an ONNX Runtime library built with CUDA (`pip install onnxruntime-gpu` on x86-64)"
            }
            Self::Cpu => "nothing",
        }
    }

    /// The provider of a name in configuration.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.name() == name)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens when a provider cannot start.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Requirement {
    /// Nothing runs.
    #[default]
    Required,
    /// It is left out, which is reported, and the next of the list is tried.
    Preferred,
}

/// Numbers a GPU provider may compute in. The graph's own quantisation is another matter: it belongs to the bundle.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputePrecision {
    /// 32-bit floats throughout.
    F32,
    /// 19-bit products of 32-bit floats (CUDA only).
    Tf32,
    /// 16-bit floats where TensorRT finds them faster.
    Fp16,
    /// 16-bit brain floats where TensorRT finds them faster.
    Bf16,
    /// 8-bit integers, for graphs with quantise and dequantise nodes.
    Int8,
}

impl ComputePrecision {
    /// Its name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// One entry of the list of providers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderRequest {
    /// Which.
    pub name: Provider,
    /// What happens when it cannot start.
    #[serde(default)]
    pub requirement: Requirement,
    /// Index of the GPU (not for `cpu`).
    #[serde(default)]
    pub device_id: Option<u32>,
    /// Numbers to compute in; without it 32-bit floats throughout (`tensorrt` and `cuda`).
    #[serde(default)]
    pub precision: Option<ComputePrecision>,
    /// Most memory for scratch, MiB (`tensorrt`, `tensorrt_rtx`).
    #[serde(default)]
    pub workspace_mib: Option<u32>,
    /// Most memory for the arena, MiB (`cuda`).
    #[serde(default)]
    pub memory_limit_mib: Option<u32>,
    /// The deep-learning accelerator's core, on a Jetson that has one (`tensorrt`).
    #[serde(default)]
    pub dla_core: Option<u32>,
    /// Keep built engines and timings between starts (`tensorrt`, `tensorrt_rtx`); on unless switched off, since an
    /// engine takes minutes to build.
    #[serde(default)]
    pub cache: Option<bool>,
    /// Record the work of a run once and replay it with one launch (`tensorrt`, `tensorrt_rtx`, `cuda`); every node must be
    /// the provider's, so `cpu` may not stand in the list.
    #[serde(default)]
    pub cuda_graph: Option<bool>,
    /// Rows that engines of a graph of any number of rows are built for (`tensorrt`, `tensorrt_rtx`); without it every number
    /// that the bundle runs, kernels chosen for one. It must cover those.
    #[serde(default)]
    pub profile_rows: Option<ProfileRows>,
    /// The plug-in's library (`tensorrt_rtx`, where it is needed).
    #[serde(default)]
    pub library: Option<PathBuf>,
}

impl ProviderRequest {
    /// A required provider without options.
    pub const fn required(name: Provider) -> Self {
        Self {
            name,
            requirement: Requirement::Required,
            device_id: None,
            precision: None,
            workspace_mib: None,
            memory_limit_mib: None,
            dla_core: None,
            cache: None,
            cuda_graph: None,
            profile_rows: None,
            library: None,
        }
    }

    /// Whether engines it builds are kept.
    pub(crate) fn keeps_engines(&self) -> bool {
        matches!(self.name, Provider::TensorRt | Provider::TensorRtRtx) && self.cache != Some(false)
    }

    /// Whether its runs are recorded and replayed.
    pub(crate) fn has_cuda_graph(&self) -> bool {
        self.cuda_graph == Some(true)
    }

    /// Refuses options that do not go with the numbers of rows, ascending, that `graph` of a bundle is run with; none for a
    /// bundle whose graphs are each of one shape.
    ///
    /// # Errors
    /// [`EngineError::Rows`] naming the option.
    pub(crate) fn check_rows(&self, graph: &str, counts: &[usize]) -> Result<(), EngineError> {
        let refused = |key, value: String, detail: String| {
            Err(EngineError::Rows { provider: self.name.name(), key, value, detail })
        };
        let (Some(least), Some(most)) = (counts.first(), counts.last()) else {
            return match self.profile_rows {
                None => Ok(()),
                Some(rows) => {
                    let detail = "every graph of the bundle is of one shape: leave it out";
                    refused("profile_rows", rows.to_string(), detail.to_owned())
                }
            };
        };
        if let Some(rows) = self.profile_rows.filter(|rows| rows.min > *least || rows.max < *most) {
            let detail = format!(
                "{graph} of the bundle is run with {counts:?} rows: write min = {least} and at least max = {most}, or leave it out"
            );
            return refused("profile_rows", rows.to_string(), detail);
        }
        if self.name == Provider::TensorRt && self.has_cuda_graph() {
            let detail = format!(
                "this provider has one recording a session and replays it whatever the shapes are, and {graph} of the bundle is run with {counts:?} rows: leave it out, or use `cuda`, `tensorrt_rtx` or a bundle of one graph a number of rows"
            );
            return refused("cuda_graph", "true".to_owned(), detail);
        }
        if let Some(core) = self.dla_core {
            let detail = format!(
                "the accelerator runs one shape, and {graph} of the bundle is run with {counts:?} rows: leave it out, or use a bundle of one graph a number of rows"
            );
            return refused("dla_core", core.to_string(), detail);
        }
        Ok(())
    }

    /// The options that change what an engine is, for the key of its cache.
    pub(crate) fn fingerprint(&self) -> String {
        let Self { name, device_id, precision, workspace_mib, dla_core, .. } = self;
        let precision = precision.map_or("f32", ComputePrecision::name);
        let graph = if self.has_cuda_graph() { " graph" } else { "" };
        let device = device_id.unwrap_or(0);
        let rows = self.profile_rows.map_or(String::new(), |rows| format!(" rows {rows}"));
        format!("{name} device {device} {precision} workspace {workspace_mib:?} dla {dla_core:?}{graph}{rows}")
    }
}

/// Why a list of providers is refused. Names the place, the key, the value and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvidersError {
    /// Not TOML, an unknown key or another type.
    #[error("{source_name}: {message}")]
    Parse {
        /// The file, or the command line's option.
        source_name: String,
        /// The parser's message.
        message: String,
    },
    /// A value that cannot be.
    #[error("{source_name}: {key} = {value}: {remedy}")]
    Invalid {
        /// The file, or the command line's option.
        source_name: String,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What to write instead.
        remedy: String,
    },
}

/// An ordered list of providers, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderList(Vec<ProviderRequest>);

impl Default for ProviderList {
    /// The CPU, required.
    fn default() -> Self {
        Self(vec![ProviderRequest::required(Provider::Cpu)])
    }
}

impl ProviderList {
    /// Checks a list.
    ///
    /// # Errors
    /// [`ProvidersError::Invalid`] for an empty list, a provider named twice, one after `cpu`, or an option that its
    /// provider does not have. `source` names the list in messages.
    pub fn new(requests: Vec<ProviderRequest>, source: &str) -> Result<Self, ProvidersError> {
        let invalid = |key: String, value: String, remedy: &str| {
            Err(ProvidersError::Invalid { source_name: source.to_owned(), key, value, remedy: remedy.to_owned() })
        };
        if requests.is_empty() {
            return invalid("providers".into(), "[]".into(), "name at least one of tensorrt, tensorrt_rtx, cuda, cpu");
        }
        for (index, request) in requests.iter().enumerate() {
            let name = request.name;
            if requests[..index].iter().any(|earlier| earlier.name == name) {
                return invalid(format!("providers[{index}].name"), name.to_string(), "name each provider once");
            }
            if requests[..index].iter().any(|earlier| earlier.name == Provider::Cpu) {
                let remedy = "the CPU takes every node, so nothing after it is ever used: put `cpu` last";
                return invalid(format!("providers[{index}].name"), name.to_string(), remedy);
            }
            if name == Provider::TensorRtRtx && request.library.is_none() {
                let remedy = "name the plug-in's file, for example libonnxruntime_providers_nv_tensorrt_rtx.so";
                return invalid(format!("providers[{index}].library"), "nothing".into(), remedy);
            }
            if let Some((key, value)) = foreign_options(request).next() {
                let remedy = format!("`{name}` has no such option: leave it out");
                return invalid(format!("providers[{index}].{key}"), value, &remedy);
            }
            if request.has_cuda_graph() {
                let alone = requests.iter().all(|other| other.name != Provider::Cpu);
                if !alone {
                    let remedy =
                        "a recorded graph holds no node of the CPU: take `cpu` out of the list, or leave this out";
                    return invalid(format!("providers[{index}].cuda_graph"), "true".into(), remedy);
                }
                if request.dla_core.is_some() {
                    let remedy = "work of the accelerator (`dla_core`) cannot be recorded: leave one of them out";
                    return invalid(format!("providers[{index}].cuda_graph"), "true".into(), remedy);
                }
            }
            if let Some(rows) = request.profile_rows
                && !(1 <= rows.min && rows.min <= rows.opt && rows.opt <= rows.max)
            {
                let remedy = "write 1 ≤ min ≤ opt ≤ max, or leave it out";
                return invalid(format!("providers[{index}].profile_rows"), rows.to_string(), remedy);
            }
            if let Some(precision) = request.precision {
                let fits = match name {
                    Provider::Cuda => matches!(precision, ComputePrecision::F32 | ComputePrecision::Tf32),
                    _ => precision != ComputePrecision::Tf32,
                };
                if !fits {
                    let remedy = match name {
                        Provider::Cuda => "write f32 or tf32; lower precision is a matter of the bundle's graphs there",
                        _ => "write f32, fp16, bf16 or int8",
                    };
                    return invalid(format!("providers[{index}].precision"), precision.name().into(), remedy);
                }
            }
        }
        Ok(Self(requests))
    }

    /// Reads `tensorrt?,cuda,cpu`: a question mark makes a provider preferred, without it it is required.
    ///
    /// # Errors
    /// [`ProvidersError::Invalid`], as for [`ProviderList::new`], and for a name that is not a provider's.
    pub fn from_names(text: &str, source: &str) -> Result<Self, ProvidersError> {
        let mut requests = Vec::new();
        for word in text.split(',').map(str::trim) {
            let (name, requirement) = match word.strip_suffix('?') {
                Some(name) => (name, Requirement::Preferred),
                None => (word, Requirement::Required),
            };
            let provider = Provider::from_name(name).ok_or_else(|| ProvidersError::Invalid {
                source_name: source.to_owned(),
                key: "name".to_owned(),
                value: format!("{word:?}"),
                remedy: "write tensorrt, tensorrt_rtx, cuda or cpu, with `?` after one that may be missing".to_owned(),
            })?;
            requests.push(ProviderRequest { requirement, ..ProviderRequest::required(provider) });
        }
        Self::new(requests, source)
    }

    /// The entries, in order.
    pub fn requests(&self) -> &[ProviderRequest] {
        &self.0
    }

    /// Whether nodes may run on the CPU.
    pub fn allows_cpu(&self) -> bool {
        self.0.iter().any(|request| request.name == Provider::Cpu)
    }
}

/// Options given to a provider that does not have them.
fn foreign_options(request: &ProviderRequest) -> impl Iterator<Item = (&'static str, String)> {
    use Provider::{Cpu, Cuda, TensorRt, TensorRtRtx};
    let given: [(&'static str, Option<String>, &'static [Provider]); 9] = [
        ("device_id", request.device_id.map(|id| id.to_string()), &[TensorRt, TensorRtRtx, Cuda]),
        ("precision", request.precision.map(|p| p.name().to_owned()), &[TensorRt, Cuda]),
        ("workspace_mib", request.workspace_mib.map(|mib| mib.to_string()), &[TensorRt, TensorRtRtx]),
        ("memory_limit_mib", request.memory_limit_mib.map(|mib| mib.to_string()), &[Cuda]),
        ("dla_core", request.dla_core.map(|core| core.to_string()), &[TensorRt]),
        ("cache", request.cache.map(|cache| cache.to_string()), &[TensorRt, TensorRtRtx]),
        ("cuda_graph", request.cuda_graph.map(|graph| graph.to_string()), &[TensorRt, TensorRtRtx, Cuda]),
        ("profile_rows", request.profile_rows.map(|rows| rows.to_string()), &[TensorRt, TensorRtRtx]),
        ("library", request.library.as_ref().map(|path| path.display().to_string()), &[TensorRtRtx]),
    ];
    let name = request.name;
    debug_assert!(given.iter().all(|(_, _, whose)| !whose.contains(&Cpu)));
    given.into_iter().filter_map(move |(key, value, whose)| Some((key, value.filter(|_| !whose.contains(&name))?)))
}

/// What an engine configuration file says: which library, which providers, where engines are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineFile {
    /// The ONNX Runtime library.
    pub library: Option<PathBuf>,
    /// Folder of the engine cache.
    pub cache: Option<PathBuf>,
    /// Whether tensors, keys and values among them, lie in the memory of the first provider's device; without it, as the
    /// provider wants it.
    pub keep_on_device: Option<bool>,
    /// The providers.
    pub providers: ProviderList,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEngineFile {
    #[serde(default)]
    library: Option<PathBuf>,
    #[serde(default)]
    cache: Option<PathBuf>,
    #[serde(default)]
    keep_on_device: Option<bool>,
    providers: Vec<ProviderRequest>,
}

impl EngineFile {
    /// Parses the text of an engine configuration; relative paths are relative to `folder`.
    ///
    /// # Errors
    /// [`ProvidersError`] naming `file`, the key, the value and the remedy.
    pub fn from_toml_str(text: &str, file: &str, folder: &Path) -> Result<Self, ProvidersError> {
        let raw: RawEngineFile = toml::from_str(text)
            .map_err(|error| ProvidersError::Parse { source_name: file.to_owned(), message: error.to_string() })?;
        let under = |path: PathBuf| folder.join(path);
        let mut providers = ProviderList::new(raw.providers, file)?;
        for request in &mut providers.0 {
            request.library = request.library.take().map(under);
        }
        if raw.keep_on_device == Some(false)
            && let Some(gpu) = providers.0.iter().find(|request| request.name != Provider::Cpu)
        {
            return Err(ProvidersError::Invalid {
                source_name: file.to_owned(),
                key: "keep_on_device".to_owned(),
                value: "false".to_owned(),
                remedy: format!(
                    "a GPU session (`{}`) reads its own memory: leave it out, or use the CPU alone",
                    gpu.name
                ),
            });
        }
        let (library, cache) = (raw.library.map(under), raw.cache.map(under));
        Ok(Self { library, cache, keep_on_device: raw.keep_on_device, providers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        EngineFile::from_toml_str(text, "engine.toml", Path::new("/etc/endplate")).unwrap_err().to_string()
    }

    #[test]
    fn the_short_form_keeps_the_order_and_marks_what_may_be_missing() {
        let list = ProviderList::from_names("tensorrt?, cuda ,cpu", "--providers").unwrap();
        let names: Vec<_> = list.requests().iter().map(|r| (r.name.name(), r.requirement)).collect();
        let (required, preferred) = (Requirement::Required, Requirement::Preferred);
        assert_eq!(names, [("tensorrt", preferred), ("cuda", required), ("cpu", required)]);
        assert!(list.allows_cpu() && !ProviderList::from_names("cuda", "").unwrap().allows_cpu());
    }

    #[test]
    fn a_file_names_library_cache_and_options() {
        let text = r#"
            library = "lib/libonnxruntime.so"
            cache = "/var/cache/endplate"
            [[providers]]
            name = "tensorrt"
            requirement = "preferred"
            precision = "fp16"
            workspace_mib = 2048
            dla_core = 1
            [[providers]]
            name = "cpu"
        "#;
        let file = EngineFile::from_toml_str(text, "engine.toml", Path::new("/etc/endplate")).unwrap();
        assert_eq!(file.library.as_deref(), Some(Path::new("/etc/endplate/lib/libonnxruntime.so")));
        assert_eq!(file.cache.as_deref(), Some(Path::new("/var/cache/endplate")));
        let first = &file.providers.requests()[0];
        assert_eq!((first.precision, first.workspace_mib), (Some(ComputePrecision::Fp16), Some(2048)));
        assert!(first.keeps_engines() && !file.providers.requests()[1].keeps_engines());
    }

    #[test]
    fn what_cannot_be_is_refused_with_file_key_value_and_remedy() {
        for (text, words) in [
            ("providers = []", "providers = []"),
            ("[[providers]]\nname = \"cpu\"\n[[providers]]\nname = \"cuda\"", "put `cpu` last"),
            ("[[providers]]\nname = \"cuda\"\n[[providers]]\nname = \"cuda\"", "name each provider once"),
            ("[[providers]]\nname = \"cuda\"\ndla_core = 0", "providers[0].dla_core = 0: `cuda` has no such option"),
            ("[[providers]]\nname = \"cpu\"\nprecision = \"fp16\"", "`cpu` has no such option"),
            ("[[providers]]\nname = \"cuda\"\nprecision = \"int8\"", "write f32 or tf32"),
            ("[[providers]]\nname = \"tensorrt\"\nprecision = \"tf32\"", "write f32, fp16, bf16 or int8"),
            ("[[providers]]\nname = \"tensorrt_rtx\"", "name the plug-in's file"),
            ("[[providers]]\nname = \"cpu\"\ncuda_graph = true", "`cpu` has no such option"),
            ("[[providers]]\nname = \"cuda\"\ncuda_graph = true\n[[providers]]\nname = \"cpu\"", "take `cpu` out"),
            ("[[providers]]\nname = \"tensorrt\"\ncuda_graph = true\ndla_core = 0", "cannot be recorded"),
            (
                "[[providers]]\nname = \"cuda\"\nprofile_rows = { min = 1, opt = 1, max = 8 }",
                "`cuda` has no such option",
            ),
            ("[[providers]]\nname = \"tensorrt\"\nprofile_rows = { min = 1, opt = 9, max = 8 }", "1 ≤ min ≤ opt ≤ max"),
            ("[[providers]]\nname = \"tensorrt\"\nprofile_rows = { min = 1, max = 8 }", "missing field `opt`"),
            ("keep_on_device = false\n[[providers]]\nname = \"cuda\"", "keep_on_device = false"),
            ("[[providers]]\nname = \"rocm\"", "unknown variant"),
            ("[[providers]]\nname = \"cuda\"\nfallback = true", "unknown field"),
        ] {
            let message = refusal(text);
            assert!(message.starts_with("engine.toml: ") && message.contains(words), "{message}");
        }
        let message = ProviderList::from_names("cuda,vulkan", "--providers").unwrap_err().to_string();
        assert!(message.contains("--providers") && message.contains("\"vulkan\""), "{message}");
    }

    #[test]
    fn options_that_do_not_go_with_the_rows_of_a_bundle_are_refused_by_name() {
        let request = |options: &str| {
            let text = format!("[[providers]]\nname = \"tensorrt\"\n{options}");
            let file = EngineFile::from_toml_str(&text, "engine.toml", Path::new("/")).unwrap();
            file.providers.requests()[0].clone()
        };
        let check = |options: &str, counts: &[usize]| request(options).check_rows("decode.onnx", counts);
        assert_eq!(check("", &[1, 8, 110]), Ok(()));
        assert_eq!(check("cuda_graph = true", &[]), Ok(()));
        assert_eq!(check("profile_rows = { min = 1, opt = 8, max = 128 }", &[1, 8, 110]), Ok(()));
        for (options, counts, words) in [
            (
                "profile_rows = { min = 1, opt = 8, max = 8 }",
                &[1, 8, 110][..],
                "max = 8 }: decode.onnx of the bundle is run with [1, 8, 110] rows: write min = 1 and at least max = 110",
            ),
            ("profile_rows = { min = 2, opt = 8, max = 110 }", &[1, 110], "write min = 1"),
            ("profile_rows = { min = 1, opt = 1, max = 8 }", &[], "every graph of the bundle is of one shape"),
            ("cuda_graph = true", &[1, 8], "`tensorrt`: cuda_graph = true: this provider has one recording a session"),
            ("dla_core = 1", &[1, 8], "dla_core = 1: the accelerator runs one shape"),
        ] {
            let message = check(options, counts).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
        // Each number of rows has a recording of its own there.
        for name in ["cuda", "tensorrt_rtx"] {
            let library = if name == "cuda" { "" } else { "library = \"plug-in.so\"" };
            let text = format!("[[providers]]\nname = \"{name}\"\ncuda_graph = true\n{library}");
            let file = EngineFile::from_toml_str(&text, "engine.toml", Path::new("/")).unwrap();
            assert_eq!(file.providers.requests()[0].check_rows("decode.onnx", &[1, 8]), Ok(()));
        }
    }
}
