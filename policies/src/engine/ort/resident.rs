//! A session whose tensors lie on the device of its provider.
//!
//! ONNX Runtime copies a host tensor that is bound to a GPU session once, when it is bound: what is written into it later is
//! never seen. So every tensor lies on the device and has a twin on the host; a twin that was written is copied over before a
//! run, what a run gives is copied back behind it, and the addresses stay the same, which CUDA graphs need. Keys and values
//! are the exception: the rows a decoder makes go from its output into its slab on the device ([`Append`]), and are copied to
//! the host only where somebody asks.
//!
//! Which memory that is follows the provider. With the CPU's the same code runs on any machine, which is how it is tested.

use std::sync::Arc;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session as Runtime};
use ort::value::{PrimitiveTensorElementType, Tensor};

use super::append::Append;
use super::shared::Shared;
use super::{Dtype, NAME};
use crate::engine::{Contract, Direction, EngineError, GraphSource, InputSlot, OutputSlot, Session, no_slot};

/// Memory of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Residence {
    device: AllocationDevice<'static>,
    id: i32,
}

impl Residence {
    /// The memory of the GPU with this index.
    pub(super) fn gpu(id: u32) -> Self {
        Self { device: AllocationDevice::CUDA, id: i32::try_from(id).unwrap_or(i32::MAX) }
    }

    /// The host's own, as if it were a device.
    pub(super) const fn cpu() -> Self {
        Self { device: AllocationDevice::CPU, id: 0 }
    }

    pub(super) fn allocator(&self, runtime: &Runtime) -> Result<Allocator, ort::Error> {
        let info = MemoryInfo::new(self.device.clone(), self.id, AllocatorType::Device, MemoryType::Default)?;
        Allocator::new(runtime, info)
    }
}

/// What tensors are made of.
pub(super) trait Element: PrimitiveTensorElementType + core::fmt::Debug + Clone + Default + 'static {}

impl<T: PrimitiveTensorElementType + core::fmt::Debug + Clone + Default + 'static> Element for T {}

/// A tensor on the device and its twin on the host.
pub(super) struct Twin<T: Element> {
    host: Tensor<T>,
    pub(super) device: Tensor<T>,
    /// Whether the host's was written since the last copy.
    is_written: bool,
    /// Whether rows were put into the device's that the host's does not have.
    is_behind: bool,
}

impl<T: Element> Twin<T> {
    /// Both of zeros.
    pub(super) fn zeros(device: &Allocator, shape: &[usize]) -> Result<Self, ort::Error> {
        let mut host = Tensor::<T>::new(&Allocator::default(), shape.to_vec())?;
        host.extract_tensor_mut().1.fill(T::default());
        let device = Tensor::<T>::new(device, shape.to_vec())?;
        Ok(Self { host, device, is_written: true, is_behind: false })
    }

    /// The host's, to write: what is not written anew is what the host has.
    pub(super) fn write(&mut self) -> &mut [T] {
        self.is_written = true;
        self.is_behind = false;
        self.host.extract_tensor_mut().1
    }

    /// Copies what was written.
    pub(super) fn send(&mut self) -> Result<(), ort::Error> {
        if std::mem::take(&mut self.is_written) {
            self.host.copy_into(&mut self.device)?;
        }
        Ok(())
    }
}

impl Twin<f32> {
    fn fetch(&mut self) -> Result<(), ort::Error> {
        self.is_behind = false;
        self.device.copy_into(&mut self.host)
    }

    /// The host's, to read, with what was put into the device's.
    fn read(&mut self) -> Result<&[f32], ort::Error> {
        if self.is_behind {
            self.fetch()?;
        }
        Ok(self.host.extract_tensor().1)
    }
}

enum Input {
    F32(Twin<f32>),
    I64(Twin<i64>),
}

pub(super) struct ResidentSession {
    graph: String,
    runtime: Shared,
    binding: IoBinding,
    inputs: Vec<Input>,
    outputs: Vec<Twin<f32>>,
    /// Outputs that stay on the device, by slot.
    stays: Vec<bool>,
    append: Option<Append>,
    /// Inputs that rows are appended to on the device.
    slabs: Vec<usize>,
    has_run: bool,
    /// Initialisers may still point into the files.
    _external: Vec<Arc<[u8]>>,
}

impl ResidentSession {
    /// Binds every tensor of a contract in `residence`; `append` builds the graph that appends keys and values there.
    pub(super) fn bind(
        runtime: Shared,
        graph: GraphSource<'_>,
        contract: &Contract,
        residence: &Residence,
        append: impl FnOnce(&Contract, &Allocator) -> Result<Option<Append>, ort::Error>,
    ) -> Result<Self, ort::Error> {
        let mut binding = runtime.with(Runtime::create_binding)?;
        let allocator = runtime.with(|runtime| residence.allocator(runtime))?;
        let mut inputs = Vec::with_capacity(contract.inputs().len());
        for spec in contract.inputs() {
            inputs.push(match spec.dtype {
                Dtype::F32 => Input::F32(Twin::<f32>::zeros(&allocator, &spec.shape)?),
                Dtype::I64 => Input::I64(Twin::<i64>::zeros(&allocator, &spec.shape)?),
            });
            match inputs.last() {
                Some(Input::F32(twin)) => binding.bind_input(spec.name.as_str(), &twin.device)?,
                Some(Input::I64(twin)) => binding.bind_input(spec.name.as_str(), &twin.device)?,
                None => {}
            }
        }
        let mut outputs = Vec::with_capacity(contract.outputs().len());
        for spec in contract.outputs() {
            let mut twin = Twin::<f32>::zeros(&allocator, &spec.shape)?;
            binding.bind_output(spec.name.as_str(), &mut twin.device)?;
            outputs.push(twin);
        }
        let mut stays = vec![false; outputs.len()];
        let mut slabs = Vec::new();
        let mut append = append(contract, &allocator)?;
        if let Some(append) = &mut append {
            for (index, (new, slab)) in contract.appends().iter().enumerate() {
                stays[new.0] = true;
                slabs.push(slab.0);
                if let Input::F32(slab) = &mut inputs[slab.0] {
                    append.bind(index, &outputs[new.0].device, &mut slab.device)?;
                }
            }
        }
        let external = graph.external.iter().map(|file| Arc::clone(&file.bytes)).collect();
        let graph = graph.name.to_owned();
        Ok(Self { graph, runtime, binding, inputs, outputs, stays, append, slabs, has_run: false, _external: external })
    }

    fn failed(&self, error: &ort::Error) -> EngineError {
        EngineError::Run { engine: NAME, graph: self.graph.clone(), detail: error.to_string() }
    }

    fn send(&mut self) -> Result<(), ort::Error> {
        for input in &mut self.inputs {
            match input {
                Input::F32(twin) => twin.send()?,
                Input::I64(twin) => twin.send()?,
            }
        }
        Ok(())
    }

    fn run_and_fetch(&mut self) -> Result<(), ort::Error> {
        self.send()?;
        self.runtime.run(&self.binding)?;
        for (twin, stays) in self.outputs.iter_mut().zip(&self.stays) {
            if !stays {
                twin.fetch()?;
            }
        }
        Ok(())
    }

    fn append_rows(&mut self, at: usize, kept: usize) -> Result<(), ort::Error> {
        // A slab that the host wrote is copied before rows are put behind it.
        self.send()?;
        let Some(append) = self.append.as_mut() else { return Ok(()) };
        append.run(at, kept)?;
        for slab in &self.slabs {
            if let Input::F32(twin) = &mut self.inputs[*slab] {
                twin.is_behind = true;
            }
        }
        Ok(())
    }
}

impl Session for ResidentSession {
    fn input_f32_mut(&mut self, slot: InputSlot) -> Result<&mut [f32], EngineError> {
        match self.inputs.get_mut(slot.0) {
            Some(Input::F32(twin)) => Ok(twin.write()),
            _ => Err(no_slot(&self.graph, Direction::Input, slot.0, Dtype::F32)),
        }
    }

    fn input_i64_mut(&mut self, slot: InputSlot) -> Result<&mut [i64], EngineError> {
        match self.inputs.get_mut(slot.0) {
            Some(Input::I64(twin)) => Ok(twin.write()),
            _ => Err(no_slot(&self.graph, Direction::Input, slot.0, Dtype::I64)),
        }
    }

    fn input_f32(&mut self, slot: InputSlot) -> Result<&[f32], EngineError> {
        match self.inputs.get_mut(slot.0) {
            Some(Input::F32(twin)) => twin.read().map_err(|error| EngineError::Run {
                engine: NAME,
                graph: self.graph.clone(),
                detail: error.to_string(),
            }),
            _ => Err(no_slot(&self.graph, Direction::Input, slot.0, Dtype::F32)),
        }
    }

    fn run(&mut self) -> Result<(), EngineError> {
        self.has_run = false;
        self.run_and_fetch().map_err(|error| self.failed(&error))?;
        self.has_run = true;
        Ok(())
    }

    fn output_f32(&self, slot: OutputSlot) -> Result<&[f32], EngineError> {
        match self.outputs.get(slot.0) {
            Some(twin) if self.has_run && !self.stays[slot.0] => Ok(twin.host.extract_tensor().1),
            _ => Err(no_slot(&self.graph, Direction::Output, slot.0, Dtype::F32)),
        }
    }

    fn output_and_input_f32(
        &mut self,
        output: OutputSlot,
        input: InputSlot,
    ) -> Result<(&[f32], &mut [f32]), EngineError> {
        if self.has_run
            && self.stays.get(output.0) == Some(&true)
            && let Err(error) = self.outputs[output.0].fetch()
        {
            return Err(self.failed(&error));
        }
        match (self.outputs.get(output.0), self.inputs.get_mut(input.0)) {
            (Some(from), Some(Input::F32(into))) if self.has_run => Ok((from.host.extract_tensor().1, into.write())),
            _ => Err(no_slot(&self.graph, Direction::Output, output.0, Dtype::F32)),
        }
    }

    fn append(&mut self, at: usize, kept: usize) -> Result<bool, EngineError> {
        if self.append.is_none() || !self.has_run {
            return Ok(false);
        }
        self.append_rows(at, kept).map_err(|error| self.failed(&error))?;
        Ok(true)
    }
}
