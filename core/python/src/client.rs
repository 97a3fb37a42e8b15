//! How the core speaks to registries on Python's behalf: `HttpClient`, and the object that locates a blob.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use overlaybd::fetch::{self, Client, ClientOptions, Headers, Http, Locate, TlsOptions, Via};
use overlaybd::Error;

use crate::errors::from_py;

/// The client of everyone who brings none: one pool of connections for the process.
static DEFAULT_CLIENT: LazyLock<Arc<Client>> = LazyLock::new(|| Arc::new(Client::new(ClientOptions::default())));

/// `(ca_file, cert_file, key_file, insecure)`, each file "" for none.
type Tls = (PathBuf, PathBuf, PathBuf, bool);

/// A connection pool with its TLS and identity settings.
#[pyclass(frozen, module = "obdcore")]
pub struct HttpClient(Arc<Client>);

impl HttpClient {
    /// The client itself, or the one that all share who bring none.
    pub fn of(client: Option<&HttpClient>) -> Arc<dyn Http> {
        Arc::clone(client.map_or(&*DEFAULT_CLIENT, |client| &client.0)) as _
    }
}

fn tls_options((ca_file, cert_file, key_file, insecure): Tls) -> TlsOptions {
    let given = |path: &PathBuf| !path.as_os_str().is_empty();
    let client = (given(&cert_file) && given(&key_file)).then_some((cert_file, key_file));
    TlsOptions { ca_file: Some(ca_file).filter(given), client, insecure }
}

#[pymethods]
impl HttpClient {
    #[new]
    #[pyo3(signature = (*, user_agent = "", tls = Tls::default(), hosts = HashMap::new()))]
    fn new(user_agent: &str, tls: Tls, hosts: HashMap<String, Tls>) -> Self {
        let hosts = hosts.into_iter().map(|(host, tls)| (host.to_lowercase(), tls_options(tls))).collect();
        let options = ClientOptions { user_agent: user_agent.to_owned(), tls: tls_options(tls), hosts };
        HttpClient(Arc::new(Client::new(options)))
    }
}

/// Where to send a GET, and how long that may be remembered.
#[pyclass(frozen, module = "obdcore")]
pub struct Target {
    target: Arc<fetch::Target>,
    fresh: Duration,
}

#[pymethods]
impl Target {
    #[new]
    #[pyo3(signature = (url, headers, *, proxy = None, endpoint = 0, limit_s = None, fresh_s = 0.0, abroad = false))]
    fn new(
        url: String,
        headers: Headers,
        proxy: Option<String>,
        endpoint: u32,
        limit_s: Option<f64>,
        fresh_s: f64,
        abroad: bool,
    ) -> PyResult<Self> {
        let seconds = |s: f64| Duration::try_from_secs_f64(s).map_err(|e| PyValueError::new_err(e.to_string()));
        let via = match proxy {
            None if abroad => Via::Abroad,
            None => Via::Environment,
            Some(proxy) if proxy.is_empty() => Via::Direct,
            Some(proxy) => Via::Proxy(proxy),
        };
        let limit = limit_s.map(seconds).transpose()?;
        let target = Arc::new(fetch::Target { url, headers, via, endpoint, limit });
        Ok(Target { target, fresh: seconds(fresh_s)? })
    }

    #[getter]
    fn url(&self) -> &str {
        &self.target.url
    }

    #[getter]
    fn headers(&self) -> Headers {
        self.target.headers.clone()
    }

    #[getter]
    fn endpoint(&self) -> u32 {
        self.target.endpoint
    }

    #[getter]
    fn proxy(&self) -> Option<&str> {
        match &self.target.via {
            Via::Environment | Via::Abroad => None,
            Via::Direct => Some(""),
            Via::Proxy(proxy) => Some(proxy),
        }
    }
}

/// A Python object with the methods of `obdcore.Locator`. What it located is remembered as long as it said, so that
/// most requests are sent without Python.
pub struct PyLocator {
    locator: Py<PyAny>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    target: Option<(Arc<fetch::Target>, Instant)>,
    /// Counts what made earlier targets void.
    turn: u64,
}

impl PyLocator {
    /// Asks `locator` when it has to.
    pub fn new(locator: Py<PyAny>) -> Self {
        PyLocator { locator, known: Mutex::default() }
    }

    fn void(&self) {
        let mut known = self.known.lock();
        known.target = None;
        known.turn += 1;
    }

    /// Calls a method with what `args` makes of the target; whatever it says, the next target comes from Python.
    fn tell<T>(
        &self,
        name: &str,
        target: &Arc<fetch::Target>,
        args: impl for<'py> FnOnce(Python<'py>, Target) -> PyResult<Bound<'py, PyTuple>>,
        take: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> overlaybd::Result<T> {
        let result = Python::attach(|py| {
            let call = || -> PyResult<T> {
                let target = Target { target: Arc::clone(target), fresh: Duration::ZERO };
                take(&self.locator.bind(py).call_method1(name, args(py, target)?)?)
            };
            call().map_err(|e| from_py(py, &e, "locating the blob"))
        });
        self.void();
        result
    }
}

impl Locate for PyLocator {
    fn locate(&self) -> overlaybd::Result<Arc<fetch::Target>> {
        let turn = {
            let known = self.known.lock();
            if let Some((target, end)) = &known.target {
                if Instant::now() < *end {
                    return Ok(Arc::clone(target));
                }
            }
            known.turn
        };
        let (target, fresh) = Python::attach(|py| {
            let call = || -> PyResult<_> {
                let found = self.locator.bind(py).call_method0("locate")?;
                let found = found.cast::<Target>()?.get();
                Ok((Arc::clone(&found.target), found.fresh))
            };
            call().map_err(|e| from_py(py, &e, "locating the blob"))
        })?;
        let mut known = self.known.lock();
        // What has been refused meanwhile must not come back.
        if known.turn == turn && !fresh.is_zero() {
            known.target = Some((Arc::clone(&target), Instant::now() + fresh));
        }
        Ok(target)
    }

    fn refused(
        &self,
        status: u16,
        headers: &[(String, String)],
        target: &Arc<fetch::Target>,
    ) -> overlaybd::Result<bool> {
        let headers = headers.to_vec();
        self.tell("refused", target, |py, t| (status, headers, t).into_pyobject(py), |answer| answer.extract())
    }

    fn failed(&self, status: Option<u16>, error: &Error, target: &Arc<fetch::Target>) -> bool {
        let line = error.to_string();
        self.tell("failed", target, |py, target| (status, line, target).into_pyobject(py), |answer| answer.extract())
            .unwrap_or(false)
    }

    fn distrusted(&self, target: &Arc<fetch::Target>) {
        // Who cannot be told has no other endpoint to offer.
        let _ = self.tell("distrusted", target, |py, target| (target,).into_pyobject(py), |_| Ok(()));
    }

    fn mismatched(&self, target: &Arc<fetch::Target>, offset: u64, len: u64) {
        let _ = self.tell("mismatched", target, |py, target| (target, offset, len).into_pyobject(py), |_| Ok(()));
    }

    fn note(&self) -> Option<String> {
        Python::attach(|py| self.locator.bind(py).call_method0("describe").ok()?.extract().ok())
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<HttpClient>()?;
    module.add_class::<Target>()
}
