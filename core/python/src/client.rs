//! How the core speaks to registries on Python's behalf: `HttpClient`, and the object that locates a blob.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError};
use pyo3::prelude::*;

use overlaybd::fetch::{Client, ClientOptions, Headers, Http, Locate};
use overlaybd::{Error, Kind};

/// The client of everyone who brings none: one pool of connections for the process.
static DEFAULT_CLIENT: LazyLock<Arc<Client>> = LazyLock::new(|| Arc::new(Client::new(ClientOptions::default())));

/// A connection pool with its TLS and identity settings.
#[pyclass(frozen, module = "obdcore")]
pub struct HttpClient(Arc<Client>);

impl HttpClient {
    /// The client itself, or the one that all share who bring none.
    pub fn of(client: Option<&HttpClient>) -> Arc<dyn Http> {
        Arc::clone(client.map_or(&*DEFAULT_CLIENT, |client| &client.0)) as _
    }
}

#[pymethods]
impl HttpClient {
    #[new]
    #[pyo3(signature = (*, user_agent = "", ca_file = None, insecure = false))]
    fn new(user_agent: &str, ca_file: Option<PathBuf>, insecure: bool) -> Self {
        let options = ClientOptions { user_agent: user_agent.to_owned(), ca_file, insecure };
        HttpClient(Arc::new(Client::new(options)))
    }
}

/// A Python object with the methods of `obdcore.Locator`.
pub struct PyLocator(pub Py<PyAny>);

impl Locate for PyLocator {
    fn locate(&self) -> overlaybd::Result<(String, Headers)> {
        Python::attach(|py| {
            let call = || self.0.bind(py).call_method0("locate")?.extract();
            call().map_err(|e| explain(py, &e))
        })
    }

    fn refused(
        &self,
        status: u16,
        headers: &[(String, String)],
        url: &str,
        sent: &[(String, String)],
    ) -> overlaybd::Result<bool> {
        Python::attach(|py| {
            let call = || {
                let args = (status, headers.to_vec(), url, sent.to_vec());
                self.0.bind(py).call_method1("refused", args)?.extract()
            };
            call().map_err(|e| explain(py, &e))
        })
    }
}

/// A Python exception as a core error. Its kind decides whether the core tries again: that of the
/// exception where it has one, else what passes (`Io`) for any `OSError`, and what does not for the rest.
fn explain(py: Python<'_>, e: &PyErr) -> Error {
    let named = e.value(py).getattr("kind").and_then(|kind| kind.extract::<String>());
    let kind = named.ok().and_then(|name| Kind::from_name(&name)).unwrap_or_else(|| {
        if e.is_instance_of::<PyOSError>(py) {
            Kind::Io
        } else if e.is_instance_of::<PyKeyboardInterrupt>(py) {
            Kind::Interrupted
        } else {
            Kind::Invalid
        }
    });
    Error::new(kind, "locating the blob").because(e.value(py).to_string())
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<HttpClient>()
}
