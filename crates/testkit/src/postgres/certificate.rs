//! A self-signed certificate for a server with TLS.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use provision::Account;

use super::cluster::give;

/// Writes `server.crt` and `server.key`, where PostgreSQL looks for them, and returns the certificate (PEM).
pub(super) fn install(data: &Path, account: Option<Account>) -> Result<String> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
    let certificate = made.cert.pem();
    for (name, text) in [
        ("server.crt", certificate.clone()),
        ("server.key", made.signing_key.serialize_pem()),
    ] {
        let path = data.join(name);
        fs::write(&path, text)?;
        give(&path, account)?;
    }
    Ok(certificate)
}
