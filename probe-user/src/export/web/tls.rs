//! Certificates and keys to a TLS server.

use super::file::{Clients, Tls, Version};
use super::{WebError, read};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, crypto::ring};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Reads the files, and checks that the key belongs to the certificate.
pub(super) fn acceptor(tls: &Tls) -> Result<TlsAcceptor, WebError> {
    let Tls { cert, key, clients, oldest, newest } = tls;
    let wrong = |path: &Path, what: String| WebError::Tls { path: path.to_owned(), what };
    let chain = certificates("certificate", cert)?;
    let pem = read("private key", key)?;
    let secret = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| wrong(key, format!("holds no private key in PEM form ({error})")))?;
    let provider = Arc::new(ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let server = server
        .with_protocol_versions(&versions(*oldest, *newest))
        .map_err(|error| wrong(cert, error.to_string()))?;
    let verifier = |ca: &Path| {
        let mut roots = RootCertStore::empty();
        for root in certificates("CA certificate", ca)? {
            roots.add(root).map_err(|error| wrong(ca, error.to_string()))?;
        }
        Ok::<_, WebError>(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)))
    };
    let server = match clients {
        Clients::None => server.with_no_client_auth(),
        Clients::IfGiven(ca) => {
            let verifier = verifier(ca)?.allow_unauthenticated().build();
            server.with_client_cert_verifier(verifier.map_err(|error| wrong(ca, error.to_string()))?)
        }
        Clients::Required(ca) => {
            let verifier = verifier(ca)?.build();
            server.with_client_cert_verifier(verifier.map_err(|error| wrong(ca, error.to_string()))?)
        }
    };
    let mut server = server
        .with_single_cert(chain, secret)
        .map_err(|error| wrong(cert, format!("cannot be used with the key {} ({error})", key.display())))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn versions(oldest: Version, newest: Version) -> Vec<&'static SupportedProtocolVersion> {
    let offered = [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)];
    let offered = offered.into_iter().filter(|(version, _)| (oldest..=newest).contains(version));
    offered.map(|(_, offered)| offered).collect()
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, WebError> {
    let pem = read(what, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(WebError::Tls { path: path.to_owned(), what: format!("holds no {what} in PEM form") }),
        Err(error) => Err(WebError::Tls { path: path.to_owned(), what: error.to_string() }),
    }
}
