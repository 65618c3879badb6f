//! Recorded arrays (`.npz`): the golden samples a bundle brings, and inputs of open-loop inference.

use std::collections::BTreeMap;
use std::io::Cursor;

use npyz::npz::NpzArchive;

use super::{BundleError, FamilySpec, PolicySpec};

/// The file of the golden samples.
pub(crate) const GOLDEN_FILE: &str = "golden.npz";

/// The arrays of an `.npz` file, all elements as f64 (exact for every type the bundle format uses).
#[derive(Clone, Debug)]
pub struct Arrays {
    file: String,
    arrays: BTreeMap<String, (Vec<u64>, Vec<f64>)>,
}

impl Arrays {
    /// Parses an `.npz` file; `file` is the name to use in messages.
    ///
    /// # Errors
    /// [`BundleError::Array`] for a damaged file or an element type other than u8, i32, i64, f32 and f64.
    pub fn from_npz(bytes: &[u8], file: &str) -> Result<Self, BundleError> {
        let bad = |array: &str, message: String| BundleError::Array {
            file: file.to_owned(),
            array: array.to_owned(),
            message,
        };
        let mut archive = NpzArchive::new(Cursor::new(bytes)).map_err(|error| bad("", error.to_string()))?;
        let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
        let mut arrays = BTreeMap::new();
        for name in names {
            let array = archive.by_name(&name).map_err(|error| bad(&name, error.to_string()))?;
            let array = array.ok_or_else(|| bad(&name, "is listed and missing".to_owned()))?;
            if array.order() != npyz::Order::C {
                return Err(bad(&name, "is in Fortran order; save it in C order".to_owned()));
            }
            let shape = array.shape().to_vec();
            // The declared size is compared with the file before anything is allocated for it.
            if shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).is_none_or(|n| n > MAX_ELEMENTS) {
                return Err(bad(&name, format!("has shape {shape:?}, more than {MAX_ELEMENTS} elements")));
            }
            let values = elements(array).map_err(|message| bad(&name, message))?;
            arrays.insert(name, (shape, values));
        }
        Ok(Self { file: file.to_owned(), arrays })
    }

    /// Whether there is an array of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    /// An array's elements, row-major; `shape` is compared where it is given, ignoring dimensions of 1.
    ///
    /// # Errors
    /// [`BundleError::Array`] when it is missing or has another shape.
    pub fn get(&self, name: &str, shape: Option<&[usize]>) -> Result<&[f64], BundleError> {
        let bad = |message: String| self.bad(name, message);
        let (found, values) = self.arrays.get(name).ok_or_else(|| bad("is missing".to_owned()))?;
        if let Some(needed) = shape {
            let wide = |dims: &mut dyn Iterator<Item = u64>| dims.filter(|d| *d != 1).collect::<Vec<_>>();
            if wide(&mut found.iter().copied()) != wide(&mut needed.iter().map(|d| *d as u64)) {
                return Err(bad(format!("has shape {found:?} and must have {needed:?}")));
            }
        }
        Ok(values)
    }
}

impl Arrays {
    /// A u8 array's elements; see [`get`](Self::get).
    ///
    /// # Errors
    /// [`BundleError::Array`] also for an element that is no byte.
    pub fn bytes(&self, name: &str, shape: Option<&[usize]>) -> Result<Vec<u8>, BundleError> {
        let is_byte = |v: f64| (0.0..=255.0).contains(&v) && v.fract() == 0.0;
        self.get(name, shape)?
            .iter()
            .map(
                |v| {
                    if is_byte(*v) { Ok(*v as u8) } else { Err(self.bad(name, format!("holds {v}, which is no byte"))) }
                },
            )
            .collect()
    }

    /// UTF-8 text stored as bytes.
    ///
    /// # Errors
    /// [`BundleError::Array`].
    pub fn text(&self, name: &str) -> Result<String, BundleError> {
        String::from_utf8(self.bytes(name, None)?).map_err(|error| self.bad(name, error.to_string()))
    }

    /// Ids.
    ///
    /// # Errors
    /// [`BundleError::Array`] also for an element that is no id.
    pub fn ids(&self, name: &str) -> Result<Vec<u32>, BundleError> {
        let is_id = |v: f64| (0.0..=f64::from(u32::MAX)).contains(&v) && v.fract() == 0.0;
        self.get(name, None)?
            .iter()
            .map(|v| if is_id(*v) { Ok(*v as u32) } else { Err(self.bad(name, format!("holds {v}, which is no id"))) })
            .collect()
    }

    /// Height and width of an image array `[h, w, 3]`, or of one `[moments, h, w, 3]` for several moments.
    ///
    /// # Errors
    /// [`BundleError::Array`] when it is missing or no image.
    pub fn image_size(&self, name: &str, moments: usize) -> Result<(u32, u32), BundleError> {
        let (shape, _) = self.arrays.get(name).ok_or_else(|| self.bad(name, "is missing".to_owned()))?;
        let image = match shape.as_slice() {
            [count, image @ ..] if moments > 1 && *count == moments as u64 => image,
            image if moments == 1 => image,
            _ => &[],
        };
        match *image {
            [height, width, 3] => match (u32::try_from(height), u32::try_from(width)) {
                (Ok(height), Ok(width)) => Ok((height, width)),
                _ => Err(self.bad(name, format!("has shape {shape:?}, which is too large"))),
            },
            _ => {
                let needed = if moments == 1 { "[h, w, 3]".to_owned() } else { format!("[{moments}, h, w, 3]") };
                Err(self.bad(name, format!("has shape {shape:?} and must be {needed}")))
            }
        }
    }

    fn bad(&self, array: &str, message: String) -> BundleError {
        BundleError::Array { file: self.file.clone(), array: array.to_owned(), message }
    }
}

/// Far above any recording of one inference.
const MAX_ELEMENTS: u64 = 1 << 24;

fn elements<R: std::io::Read>(array: npyz::NpyFile<R>) -> Result<Vec<f64>, String> {
    fn all<T: npyz::Deserialize, R: std::io::Read>(
        data: npyz::NpyReader<T, R>,
        widen: impl Fn(T) -> f64,
    ) -> Result<Vec<f64>, String> {
        data.map(|value| value.map(&widen).map_err(|error| error.to_string())).collect()
    }
    let array = match array.try_data::<f64>() {
        Ok(data) => return all(data, |v| v),
        Err(array) => array,
    };
    let array = match array.try_data::<f32>() {
        Ok(data) => return all(data, f64::from),
        Err(array) => array,
    };
    let array = match array.try_data::<u8>() {
        Ok(data) => return all(data, f64::from),
        Err(array) => array,
    };
    let array = match array.try_data::<i32>() {
        Ok(data) => return all(data, f64::from),
        Err(array) => array,
    };
    match array.try_data::<i64>() {
        // Exact: ids are far below 2^53.
        Ok(data) => all(data, |v| v as f64),
        Err(array) => Err(format!("has element type {}; u8, i32, i64, f32 and f64 can be read", array.dtype().descr())),
    }
}

/// `[h, w, 3]` u8 of every camera slot, and `[S]` in the state's units.
pub(crate) type RecordedMoment = (Vec<Vec<u8>>, Vec<f64>);

/// One golden sample: an observation and what the exporting framework computed for it.
#[derive(Clone, Debug)]
pub(crate) struct GoldenSample {
    /// Every moment, oldest first.
    pub(crate) moments: Vec<RecordedMoment>,
    /// What to do; empty for a family that reads no instruction.
    pub(crate) instruction: String,
    /// Ids of the prompt; none for a family without.
    pub(crate) text_ids: Vec<u32>,
    /// `[Nv, d]`; none for a family without visual tokens.
    pub(crate) visual: Vec<f64>,
    /// Logits after the prefix, `[V]`, the velocity of the first denoising step or the normalised rows, `[H, D]`.
    pub(crate) head: Vec<f64>,
    /// Action ids, generated greedily; none for a family without tokens.
    pub(crate) tokens: Vec<u32>,
    /// Initial noise, `[H, D]`, for a family that takes some.
    pub(crate) noise: Option<Vec<f64>>,
    /// `[H, D]` absolute.
    pub(crate) actions: Vec<f64>,
}

impl GoldenSample {
    /// Reads all samples of a bundle's golden file; there is at least one.
    ///
    /// # Errors
    /// [`BundleError::Array`].
    pub(crate) fn read_all(arrays: &Arrays, spec: &PolicySpec) -> Result<Vec<Self>, BundleError> {
        let mut samples = Vec::new();
        while samples.is_empty() || arrays.contains(&format!("actions_{}", samples.len())) {
            samples.push(Self::read(arrays, spec, samples.len())?);
        }
        Ok(samples)
    }

    fn read(arrays: &Arrays, spec: &PolicySpec, index: usize) -> Result<Self, BundleError> {
        let name = |array: &str| format!("{array}_{index}");
        let array = |array: &str, shape: &[usize]| arrays.get(&name(array), Some(shape)).map(<[f64]>::to_vec);
        let rows = [spec.chunk.horizon, spec.actions.dims().len()];
        let probes = spec.family.probes();
        let (first, head) = match spec.family {
            FamilySpec::Pi0Fast(tokens) | FamilySpec::Bins(tokens) | FamilySpec::OpenVla(tokens) => {
                let m = tokens.prefix.model;
                (vec![m.visual_tokens, m.width], vec![m.vocabulary])
            }
            FamilySpec::Flow(flow) => (vec![flow.prefix.model.visual_tokens, flow.prefix.model.width], rows.to_vec()),
            FamilySpec::Act | FamilySpec::OpenVlaOft(_) => (Vec::new(), rows.to_vec()),
            FamilySpec::SmolVla(rules) | FamilySpec::Pi0(rules) | FamilySpec::Pi05(rules) => {
                (Vec::new(), vec![rows[0], rules.action_width])
            }
            FamilySpec::Diffusion(rules) => (vec![rules.condition], vec![rules.horizon, rows[1]]),
        };
        let reads_instruction = spec.family.reads_instruction();
        Ok(Self {
            moments: Self::moments(arrays, spec, index)?,
            instruction: if reads_instruction { arrays.text(&name("instruction"))? } else { String::new() },
            text_ids: if reads_instruction { arrays.ids(&name("text_ids"))? } else { Vec::new() },
            visual: probes.first.map_or(Ok(Vec::new()), |probe| array(probe.array, &first))?,
            head: array(probes.head.array, &head)?,
            tokens: if spec.family.has_tokens() { arrays.ids(&name("tokens"))? } else { Vec::new() },
            noise: spec.noise_shape().map(|shape| array("noise", &shape)).transpose()?,
            actions: array("actions", &rows)?,
        })
    }

    /// `images_<sample>` `[C, h, w, 3]` in slot order where it is there, else one array a camera, `<name>_<sample>`
    /// `[n, h, w, 3]`: cameras found by name notice slots that were exchanged.
    fn moments(arrays: &Arrays, spec: &PolicySpec, index: usize) -> Result<Vec<RecordedMoment>, BundleError> {
        let steps = spec.observation_steps();
        let states = arrays.get(&format!("state_{index}"), Some(&[steps, spec.state.len()]))?;
        let mut moments: Vec<RecordedMoment> =
            states.chunks_exact(spec.state.len()).map(|state| (Vec::new(), state.to_vec())).collect();
        let together = format!("images_{index}");
        for (camera, slot) in spec.cameras.iter().enumerate() {
            let size = slot.height as usize * slot.width as usize * 3;
            let pixels = if steps == 1 && arrays.contains(&together) {
                let shape = [spec.cameras.len(), slot.height as usize, slot.width as usize, 3];
                arrays.bytes(&together, Some(&shape))?.split_off(camera * size)
            } else {
                let shape = [steps, slot.height as usize, slot.width as usize, 3];
                arrays.bytes(&format!("{}_{index}", slot.name), Some(&shape))?
            };
            for ((images, _), pixels) in moments.iter_mut().zip(pixels.chunks_exact(size)) {
                images.push(pixels.to_vec());
            }
        }
        Ok(moments)
    }
}
