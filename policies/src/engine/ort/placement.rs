//! Which provider really holds which nodes of a graph: what ONNX Runtime decided, not what was asked for.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr;

use ort::AsPointer as _;
use ort::session::Session as Runtime;

/// The session option that makes ONNX Runtime keep the assignment.
pub(super) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// Nodes by ONNX Runtime's name of the provider that holds them.
///
/// # Errors
/// ONNX Runtime's message; also where the session was built without [`RECORD`].
pub(super) fn nodes_by_provider(session: &Runtime) -> Result<BTreeMap<String, usize>, String> {
    let api = ort::api();
    let mut groups: *const *const ort::sys::OrtEpAssignedSubgraph = ptr::null();
    let mut count = 0;
    // SAFETY: the session is alive, and both pointers are to locals that live through the call. What they are set to
    // belongs to the session.
    check(unsafe { (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut groups, &mut count) })?;
    let mut nodes = BTreeMap::new();
    for index in 0..count {
        // SAFETY: the call above says that there are `count` pointers, owned by the session, which is borrowed.
        let group = unsafe { *groups.add(index) };
        let mut name: *const c_char = ptr::null();
        // SAFETY: `group` comes from the session and `name` is a local.
        check(unsafe { (api.EpAssignedSubgraph_GetEpName)(group, &mut name) })?;
        let mut members: *const *const ort::sys::OrtEpAssignedNode = ptr::null();
        let mut size = 0;
        // SAFETY: as above.
        check(unsafe { (api.EpAssignedSubgraph_GetNodes)(group, &mut members, &mut size) })?;
        if name.is_null() {
            return Err("a provider without a name".to_owned());
        }
        // SAFETY: a NUL-terminated string of the session's, which is borrowed.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        *nodes.entry(name).or_insert(0) += size;
    }
    Ok(nodes)
}

/// Takes the message out of a status and releases it.
fn check(status: ort::sys::OrtStatusPtr) -> Result<(), String> {
    if status.0.is_null() {
        return Ok(());
    }
    let api = ort::api();
    // SAFETY: a status that is not null is owned by the caller; its message lives until it is released, below.
    let message = unsafe { CStr::from_ptr((api.GetErrorMessage)(status.0)) }.to_string_lossy().into_owned();
    // SAFETY: released once, and not used afterwards.
    unsafe { (api.ReleaseStatus)(status.0) };
    Err(message)
}
