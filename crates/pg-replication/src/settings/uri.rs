//! The text form of [`ConnectionSettings`]: libpq's URI syntax
//! (`conninfo_uri_parse_options` in PostgreSQL `src/interfaces/libpq/fe-connect.c`).
//!
//! No error repeats a value: with a mistyped DSN the password can end up in any part of it.

use std::time::Duration;

use super::{
    ChannelBinding, ConnectionSettings, DEFAULT_CONNECT_TIMEOUT, DEFAULT_PORT, Password,
    RootCertificates, SslMode,
};

/// Why a DSN was refused. The texts hold no part of the DSN but parameter names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    /// Another scheme, or libpq's `key=value` form.
    #[error("the dsn must begin with postgres:// or postgresql://")]
    NotAUri,
    /// There is no user name.
    #[error("the dsn names no user; write postgres://USER:PASSWORD@HOST/DATABASE")]
    NoUser,
    /// There is no host.
    #[error("the dsn names no host; write postgres://USER:PASSWORD@HOST/DATABASE")]
    NoHost,
    /// libpq's list of hosts.
    #[error("the dsn names more than one host; name the primary alone")]
    ManyHosts,
    /// Mostly a password with a reserved character in it.
    #[error(
        "the dsn's host is malformed; in a password write @ as %40, / as %2F, : as %3A, % as %25"
    )]
    BadHost,
    /// Not a number from 1 to 65535.
    #[error(
        "the dsn's port is not a number from 1 to 65535; in a password write @ as %40, / as %2F"
    )]
    BadPort,
    /// `%` without two hexadecimal digits, `%00`, or bytes that are not UTF-8.
    #[error("the dsn has a malformed percent escape; a plain % is written %25")]
    BadEscape,
    /// A piece after `?` that is not `name=value`.
    #[error(
        "the part of the dsn after ? must be name=value pairs joined by &; write = in a value as %3D"
    )]
    BadQuery,
    /// Not a parameter that we know.
    #[error("the dsn's parameter {0} is not supported; remove it")]
    UnknownParameter(String),
    /// A known parameter with a value that it cannot have.
    #[error("the dsn's parameter {name} must be {expected}")]
    BadValue {
        /// The parameter.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
}

/// The pieces as they were written, before defaults.
#[derive(Default)]
struct Parts {
    user: String,
    password: String,
    host: String,
    port: String,
    dbname: String,
    sslmode: Option<SslMode>,
    sslrootcert: Option<RootCertificates>,
    channel_binding: Option<ChannelBinding>,
    application_name: Option<String>,
    connect_timeout: Option<Duration>,
}

pub(super) fn parse(dsn: &str) -> Result<ConnectionSettings, DsnError> {
    // A pasted text often ends in a newline.
    let dsn = dsn.trim();
    let rest = dsn
        .strip_prefix("postgresql://")
        .or_else(|| dsn.strip_prefix("postgres://"))
        .ok_or(DsnError::NotAUri)?;
    let mut parts = Parts::default();
    let rest = take_credentials(rest, &mut parts)?;
    let rest = take_host(rest, &mut parts)?;
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    // A second `@` is a password that was not escaped: its first part would be taken for the host.
    if path.contains('@') {
        return Err(DsnError::BadHost);
    }
    parts.dbname = decode(path.strip_prefix('/').unwrap_or(path))?;
    for pair in query
        .filter(|query| !query.is_empty())
        .into_iter()
        .flat_map(|q| q.split('&'))
    {
        take_parameter(pair, &mut parts)?;
    }
    finish(parts)
}

/// As libpq: credentials end at the first `@` that comes before any `/`.
fn take_credentials<'a>(text: &'a str, parts: &mut Parts) -> Result<&'a str, DsnError> {
    let Some(end) = text
        .find(['@', '/'])
        .filter(|at| text[*at..].starts_with('@'))
    else {
        return Ok(text);
    };
    let (user, password) = text[..end].split_once(':').unwrap_or((&text[..end], ""));
    parts.user = decode(user)?;
    parts.password = decode(password)?;
    Ok(&text[end + 1..])
}

fn take_host<'a>(text: &'a str, parts: &mut Parts) -> Result<&'a str, DsnError> {
    let rest = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or(DsnError::BadHost)?;
        let _: std::net::Ipv6Addr = host.parse().map_err(|_| DsnError::BadHost)?;
        parts.host = host.to_owned();
        if !(rest.is_empty() || rest.starts_with([':', '/', '?', ','])) {
            return Err(DsnError::BadHost);
        }
        rest
    } else {
        let end = text.find([':', '/', '?', ',']).unwrap_or(text.len());
        if text[..end].contains('@') {
            return Err(DsnError::BadHost);
        }
        parts.host = decode(&text[..end])?;
        &text[end..]
    };
    let Some(rest) = rest.strip_prefix(':') else {
        return if rest.starts_with(',') {
            Err(DsnError::ManyHosts)
        } else {
            Ok(rest)
        };
    };
    let end = rest.find(['/', '?', ',']).unwrap_or(rest.len());
    if rest[end..].starts_with(',') {
        return Err(DsnError::ManyHosts);
    }
    parts.port = decode(&rest[..end])?;
    Ok(&rest[end..])
}

/// One `name=value`; a later one wins over an earlier one and over the part before the `?`.
fn take_parameter(pair: &str, parts: &mut Parts) -> Result<(), DsnError> {
    let (name, value) = pair.split_once('=').ok_or(DsnError::BadQuery)?;
    if value.contains('=') {
        return Err(DsnError::BadQuery);
    }
    let (name, value) = (decode(name)?, decode(value)?);
    let bad = |name, expected| DsnError::BadValue { name, expected };
    match name.as_str() {
        "user" => parts.user = value,
        "password" => parts.password = value,
        "host" => parts.host = value,
        "port" => parts.port = value,
        "dbname" => parts.dbname = value,
        "application_name" => parts.application_name = Some(value),
        "sslmode" => {
            parts.sslmode = Some(SslMode::from_text(&value).ok_or_else(|| {
                bad(
                    "sslmode",
                    "disable, allow, prefer, require, verify-ca or verify-full",
                )
            })?);
        }
        // libpq reads JDBC's ssl=true as sslmode=require.
        "ssl" if value == "true" => parts.sslmode = Some(SslMode::Require),
        "ssl" => return Err(bad("ssl", "true; otherwise use sslmode")),
        "sslrootcert" if value == "system" => parts.sslrootcert = Some(RootCertificates::System),
        "sslrootcert" if value.is_empty() => {
            return Err(bad("sslrootcert", "the path of a PEM file, or system"));
        }
        "sslrootcert" => parts.sslrootcert = Some(RootCertificates::File(value.into())),
        "channel_binding" => {
            parts.channel_binding = Some(
                ChannelBinding::from_text(&value)
                    .ok_or_else(|| bad("channel_binding", "disable, prefer or require"))?,
            );
        }
        "connect_timeout" => {
            let secs: i32 = value
                .parse()
                .map_err(|_| bad("connect_timeout", "a whole number of seconds"))?;
            // To libpq zero and less mean no limit; here they mean the default.
            parts.connect_timeout = u64::try_from(secs)
                .ok()
                .filter(|secs| *secs > 0)
                .map(Duration::from_secs);
        }
        _ => return Err(DsnError::UnknownParameter(presentable(&name))),
    }
    Ok(())
}

fn finish(parts: Parts) -> Result<ConnectionSettings, DsnError> {
    if parts.host.contains(',') || parts.port.contains(',') {
        return Err(DsnError::ManyHosts);
    }
    // First: a slash in a password makes a bad port, and the advice for that is the better one.
    let port = match parts.port.as_str() {
        "" => DEFAULT_PORT,
        text => text
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or(DsnError::BadPort)?,
    };
    if parts.user.is_empty() {
        return Err(DsnError::NoUser);
    }
    if parts.host.is_empty() {
        return Err(DsnError::NoHost);
    }
    if parts.host.contains(char::is_whitespace) && !parts.host.starts_with('/') {
        return Err(DsnError::BadHost);
    }
    let system_roots = parts.sslrootcert == Some(RootCertificates::System);
    let sslmode = match parts.sslmode {
        // libpq 16: a certificate from any public authority proves nothing without the name.
        Some(SslMode::VerifyFull) | None if system_roots => SslMode::VerifyFull,
        Some(_) if system_roots => {
            return Err(DsnError::BadValue {
                name: "sslmode",
                expected: "verify-full when sslrootcert=system",
            });
        }
        given => given.unwrap_or(SslMode::Prefer),
    };
    Ok(ConnectionSettings {
        user: parts.user,
        password: Some(parts.password)
            .filter(|text| !text.is_empty())
            .map(Password),
        host: parts.host,
        port,
        dbname: Some(parts.dbname).filter(|text| !text.is_empty()),
        application_name: parts.application_name.filter(|text| !text.is_empty()),
        connect_timeout: parts.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        sslmode,
        sslrootcert: parts.sslrootcert,
        channel_binding: parts.channel_binding.unwrap_or(ChannelBinding::Prefer),
        parameters: Vec::new(),
    })
}

impl SslMode {
    fn from_text(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => SslMode::Disable,
            "allow" | "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return None,
        })
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

impl ChannelBinding {
    fn from_text(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => ChannelBinding::Disable,
            "prefer" => ChannelBinding::Prefer,
            "require" => ChannelBinding::Require,
            _ => return None,
        })
    }

    fn text(self) -> &'static str {
        match self {
            ChannelBinding::Disable => "disable",
            ChannelBinding::Prefer => "prefer",
            ChannelBinding::Require => "require",
        }
    }
}

/// A name that is safe to show: whatever is no plain word may be a piece of a password.
fn presentable(name: &str) -> String {
    let word = (1..=40).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if word {
        name.to_owned()
    } else {
        "(unreadable name)".to_owned()
    }
}

/// `%XX` only: to libpq a `+` is a plus.
fn decode(text: &str) -> Result<String, DsnError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            rest.next()
                .and_then(|byte| char::from(byte).to_digit(16))
                .ok_or(DsnError::BadEscape)
        };
        let value = digit()? * 16 + digit()?;
        match u8::try_from(value) {
            Ok(0) | Err(_) => return Err(DsnError::BadEscape),
            Ok(value) => bytes.push(value),
        }
    }
    String::from_utf8(bytes).map_err(|_| DsnError::BadEscape)
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The URI, with `password` in the password's place (`***` is not escaped, and needs not be).
pub(super) fn format(settings: &ConnectionSettings, password: Option<&str>) -> String {
    let mut uri = format!("postgresql://{}", encode(&settings.user));
    match password {
        Some("***") => uri.push_str(":***"),
        Some(password) => uri.push_str(&format!(":{}", encode(password))),
        None => {}
    }
    uri.push('@');
    let mut parameters: Vec<(&str, String)> = Vec::new();
    if settings.host.starts_with('/') {
        parameters.push(("host", settings.host.clone()));
        parameters.push(("port", settings.port.to_string()));
    } else if settings.host.contains(':') {
        uri.push_str(&format!("[{}]:{}", settings.host, settings.port));
    } else {
        uri.push_str(&format!("{}:{}", encode(&settings.host), settings.port));
    }
    uri.push_str(&format!("/{}", encode(settings.dbname())));
    if settings.sslmode != SslMode::Prefer {
        parameters.push(("sslmode", settings.sslmode.text().to_owned()));
    }
    match &settings.sslrootcert {
        Some(RootCertificates::System) => parameters.push(("sslrootcert", "system".to_owned())),
        Some(RootCertificates::File(path)) => {
            parameters.push(("sslrootcert", path.display().to_string()));
        }
        None => {}
    }
    if settings.channel_binding != ChannelBinding::Prefer {
        parameters.push((
            "channel_binding",
            settings.channel_binding.text().to_owned(),
        ));
    }
    if let Some(name) = &settings.application_name {
        parameters.push(("application_name", name.clone()));
    }
    if settings.connect_timeout != DEFAULT_CONNECT_TIMEOUT {
        parameters.push((
            "connect_timeout",
            settings.connect_timeout.as_secs().to_string(),
        ));
    }
    for (index, (name, value)) in parameters.iter().enumerate() {
        let joint = if index == 0 { '?' } else { '&' };
        uri.push_str(&format!("{joint}{name}={}", encode(value)));
    }
    uri
}
