//! `obdcore.MerkleTree` and `obdcore.MerkleBuilder`: what proves the bytes of a blob, and how it is made.

use std::sync::Arc;

use overlaybd::merkle::{Builder, Hash, Tree};
use overlaybd::Error;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::to_py;

/// The leaves of a blob, held against its root.
#[pyclass(frozen, module = "obdcore")]
pub struct MerkleTree {
    pub tree: Arc<Tree>,
}

#[pymethods]
impl MerkleTree {
    #[new]
    fn new(py: Python<'_>, leaves: &[u8], root: &str) -> PyResult<Self> {
        let parse = || Tree::parse(leaves, &hash_of(root)?);
        let tree = py.detach(parse).map_err(to_py)?;
        Ok(MerkleTree { tree: Arc::new(tree) })
    }

    #[getter]
    fn size(&self) -> u64 {
        self.tree.size()
    }

    #[getter]
    fn root(&self) -> String {
        hex_of(self.tree.root())
    }

    fn cache_name(&self, digest: &str) -> String {
        self.tree.cache_name(digest)
    }
}

/// Makes the list of leaves of a blob.
#[pyclass(frozen, module = "obdcore")]
pub struct MerkleBuilder {
    builder: Mutex<Builder>,
}

#[pymethods]
impl MerkleBuilder {
    #[new]
    fn new() -> Self {
        MerkleBuilder { builder: Mutex::default() }
    }

    fn update(&self, py: Python<'_>, data: &[u8]) {
        py.detach(|| self.builder.lock().update(data));
    }

    fn finish<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, String)> {
        let builder = std::mem::take(&mut *self.builder.lock());
        let (list, root) = py.detach(|| builder.finish()).map_err(to_py)?;
        Ok((PyBytes::new(py, &list), hex_of(&root)))
    }
}

/// A root as Python has it: 64 hex digits.
fn hash_of(hex: &str) -> overlaybd::Result<Hash> {
    let bad = || Error::new(overlaybd::Kind::Invalid, format!("not the root of a tree: {hex:.80?}"));
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let mut hash = Hash::default();
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| bad())?;
    }
    Ok(hash)
}

fn hex_of(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<MerkleTree>()?;
    module.add_class::<MerkleBuilder>()
}
