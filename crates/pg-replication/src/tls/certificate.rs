//! What is read from a server's certificate: its name, validity, key, and the hash that SCRAM
//! binds to.

use ring::digest::{self, SHA256, SHA384, SHA512};
use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use x509_parser::der_parser::{oid, oid::Oid};
use x509_parser::oid_registry as oids;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, rustls::Error> {
    X509Certificate::from_der(certificate)
        .map(|(_, parsed)| parsed)
        .map_err(|_| CertificateError::BadEncoding.into())
}

pub(super) fn public_key(
    certificate: &CertificateDer<'_>,
) -> Result<SubjectPublicKeyInfoDer<'static>, rustls::Error> {
    Ok(SubjectPublicKeyInfoDer::from(
        parse(certificate)?.public_key().raw.to_vec(),
    ))
}

pub(super) fn check_validity(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let parsed = parse(certificate)?;
    let validity = &parsed.validity;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// By the alternative names; by the common name only if the certificate has none of them, as libpq
/// does (`pq_verify_peer_name_matches_certificate`).
pub(super) fn check_name(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
) -> Result<(), rustls::Error> {
    let parsed = parse(certificate)?;
    let alternatives = parsed
        .subject_alternative_name()
        .map_err(|_| CertificateError::BadEncoding)?
        .is_some_and(|extension| {
            extension
                .value
                .general_names
                .iter()
                .any(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
        });
    if alternatives {
        return rustls::client::verify_server_name(
            &ParsedCertificate::try_from(certificate)?,
            name,
        );
    }
    let host = name.to_str();
    let common_name = parsed
        .subject()
        .iter_common_name()
        .next()
        .and_then(|cn| cn.as_str().ok());
    match common_name {
        Some(pattern) if common_name_matches(pattern, &host) => Ok(()),
        _ => Err(CertificateError::NotValidForName.into()),
    }
}

/// `*.` at the beginning stands for exactly one label, and never for a part of an address.
fn common_name_matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => {
            !is_address && !label.is_empty() && domain.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

/// `tls-server-end-point` of RFC 5929: the certificate hashed with the hash of its own signature,
/// SHA-256 standing in for MD5 and SHA-1. `None` where the RFC defines nothing (Ed25519), and then
/// PostgreSQL cannot bind either.
pub(super) fn end_point_hash(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = parse(certificate).ok()?;
    let algorithm = &parsed.signature_algorithm;
    let hash = match SignatureAlgorithm::try_from(algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => hash_of(parameters.hash_algorithm_oid()),
        _ => hash_of(&algorithm.algorithm),
    }?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

fn hash_of(oid: &Oid<'_>) -> Option<&'static digest::Algorithm> {
    let sha256 = [
        oids::OID_PKCS1_MD5WITHRSAENC,
        oids::OID_PKCS1_SHA1WITHRSA,
        oid!(1.2.840.10045.4.1), // ecdsa-with-SHA1
        oids::OID_HASH_SHA1,
        oids::OID_PKCS1_SHA256WITHRSA,
        oids::OID_SIG_ECDSA_WITH_SHA256,
        oids::OID_NIST_HASH_SHA256,
    ];
    let sha384 = [
        oids::OID_PKCS1_SHA384WITHRSA,
        oids::OID_SIG_ECDSA_WITH_SHA384,
        oids::OID_NIST_HASH_SHA384,
    ];
    let sha512 = [
        oids::OID_PKCS1_SHA512WITHRSA,
        oids::OID_SIG_ECDSA_WITH_SHA512,
        oids::OID_NIST_HASH_SHA512,
    ];
    if sha256.contains(oid) {
        Some(&SHA256)
    } else if sha384.contains(oid) {
        Some(&SHA384)
    } else if sha512.contains(oid) {
        Some(&SHA512)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::common_name_matches;

    #[test]
    fn common_names() {
        for (pattern, host, expected) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.0.0.1", "127.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("*", "localhost", false),
            ("example.com", "example.org", false),
        ] {
            assert_eq!(
                common_name_matches(pattern, host),
                expected,
                "{pattern} {host}"
            );
        }
    }
}
