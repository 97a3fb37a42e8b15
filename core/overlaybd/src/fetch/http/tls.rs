//! TLS: whom to trust, and which certificate to show.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_name, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, Kind, Result};
use crate::limits::MAX_PEM_BYTES;

/// What a verifier answers.
type Verified<T> = std::result::Result<T, rustls::Error>;

/// TLS towards one host, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// PEM file with further certificates to trust, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a client certificate with its chain, and of its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Accept any server certificate. Only for tests and for those who really mean it.
    pub insecure: bool,
}

/// What was made of settings so far. Made again when their files are others than before: certificates are renewed
/// while a process runs.
#[derive(Default)]
pub(super) struct Configs(Mutex<HashMap<TlsOptions, (Stamps, Arc<ClientConfig>)>>);

impl Configs {
    /// The settings made ready for a new connection.
    ///
    /// Errors: those of the files, named, if they were never good. Later what was good last stays: a certificate and
    /// its key may be replaced one after the other.
    pub fn get(&self, options: &TlsOptions) -> Result<Arc<ClientConfig>> {
        // Before the files are read: a change meanwhile is noticed the next time.
        let now = options.stamps();
        let known = self.0.lock().get(options).cloned();
        if let Some((_, config)) = known.as_ref().filter(|(before, _)| *before == now) {
            return Ok(Arc::clone(config));
        }
        // Without the lock: reads files. Made twice at worst.
        match (config(options), known) {
            (Ok(fresh), _) => {
                self.0.lock().insert(options.clone(), (now, Arc::clone(&fresh)));
                Ok(fresh)
            }
            (Err(_), Some((_, last))) => Ok(last),
            (Err(error), None) => Err(error),
        }
    }
}

/// What differs when one of the files was changed or replaced: times of change, length and inode, in file order.
type Stamps = [Option<(i64, i64, i64, i64, u64, u64)>; 3];

impl TlsOptions {
    fn stamps(&self) -> Stamps {
        let (cert, key) = self.client.as_ref().map_or((None, None), |(cert, key)| (Some(cert), Some(key)));
        [self.ca_file.as_ref(), cert, key].map(|path| {
            let m = std::fs::metadata(path?).ok()?;
            Some((m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.size(), m.ino()))
        })
    }
}

/// The settings made ready for use; reads the files.
///
/// Errors: those of the files, named.
fn config(options: &TlsOptions) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let own = match &options.ca_file {
        Some(path) => certificates(path)?,
        None => Vec::new(),
    };
    let verifier: Arc<dyn ServerCertVerifier> = if options.insecure {
        Arc::new(Anybody(Arc::clone(&provider)))
    } else {
        let mut roots = RootCertStore::empty();
        // Errors of single files in the system's store are no reason to refuse the others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let (_, refused) = roots.add_parsable_certificates(own.iter().cloned());
        if let Some(path) = options.ca_file.as_ref().filter(|_| refused > 0) {
            return Err(Error::new(Kind::Invalid, format!("{refused} unusable certificates")).in_file(path));
        }
        if roots.is_empty() {
            return Err(Error::new(Kind::Invalid, "no certificate authorities: neither the system's nor a caFile"));
        }
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let usual = usual.map_err(|e| Error::new(Kind::Invalid, "certificate authorities").because(e))?;
        Arc::new(Trust { usual, own })
    };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(rustls::ALL_VERSIONS);
    let builder = builder.map_err(|e| Error::new(Kind::Invalid, "TLS").because(e))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let Some((cert, key_file)) = &options.client else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?);
    let key = key.map_err(|e| Error::new(Kind::Invalid, "holds no usable private key").in_file(key_file).because(e))?;
    let config = builder.with_client_auth_cert(chain, key);
    let what = "client certificate and key do not go together";
    config.map(Arc::new).map_err(|e| Error::new(Kind::Invalid, what).in_file(cert).because(e))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let len = std::fs::metadata(path).map_err(|e| Error::io("open", e).in_file(path))?.len();
    if len > MAX_PEM_BYTES {
        return Err(Error::new(Kind::Limit, format!("{len} bytes of certificates")).in_file(path));
    }
    std::fs::read(path).map_err(|e| Error::io("read", e).in_file(path))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certs: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let certs = certs.map_err(|e| Error::new(Kind::Invalid, "not PEM").in_file(path).because(e))?;
    if certs.is_empty() {
        return Err(Error::new(Kind::Invalid, "holds no certificate").in_file(path));
    }
    Ok(certs)
}

/// The usual checks, and one exception: a certificate that was configured as trusted may also be the server's own,
/// even if it says that it is an authority. Many private registries have such a self-signed certificate.
#[derive(Debug)]
struct Trust {
    usual: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Verified<ServerCertVerified> {
        let usual = self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Err(error) = usual else { return usual };
        if !is_authority(&error) {
            return Err(error);
        }
        // Its time of validity has been checked by now: that comes first.
        if self.own.iter().any(|own| own.as_ref() == end_entity.as_ref()) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        Err(error)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Whether a certificate was refused only because it is that of an authority.
pub(super) fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Accepts anybody.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Verified<ServerCertVerified> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
