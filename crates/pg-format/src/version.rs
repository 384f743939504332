//! The version of a server, as `server_version_num` gives it.

use std::fmt;

/// A server's `server_version_num`: 180006 is 18.6. JSON: the number.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// The major version, 18 of 18.6: what decides every on-disk format.
    #[must_use]
    pub fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// The minor version, 6 of 18.6.
    #[must_use]
    pub fn minor(self) -> u32 {
        self.0 % 10_000
    }

    /// Reads the text of `server_version`, `15.18 (Debian 15.18-0+deb12u1)` or `19beta3`.
    ///
    /// Versions before 10, which counted differently, are refused.
    pub fn from_server_version(text: &str) -> Result<Self, ParseServerVersionError> {
        let refuse = || ParseServerVersionError(text.to_owned());
        let digits = |text: &str| -> usize { text.bytes().take_while(u8::is_ascii_digit).count() };
        let (major, rest) = text.split_at(digits(text));
        let major: u32 = major.parse().map_err(|_| refuse())?;
        let minor = match rest.strip_prefix('.') {
            Some(rest) => rest[..digits(rest)].parse().map_err(|_| refuse())?,
            None => 0,
        };
        if !(10..=999).contains(&major) || minor >= 10_000 {
            return Err(refuse());
        }
        Ok(ServerVersion(major * 10_000 + minor))
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// The text is not a version of PostgreSQL 10 or later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version of PostgreSQL 10 or later")]
pub struct ParseServerVersionError(String);

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::ServerVersion;

    #[test]
    fn text_and_number() {
        let check = |text: &str, number: u32, short: &str| {
            let version = ServerVersion::from_server_version(text).unwrap();
            assert_eq!(version, ServerVersion(number));
            assert_eq!(version.to_string(), short);
        };
        check("15.18 (Debian 15.18-0+deb12u1)", 150_018, "15.18");
        check("18.6", 180_006, "18.6");
        check("19beta3", 190_000, "19.0");
        for text in [
            "",
            "9.6.24",
            "x",
            "18.",
            "18.x",
            "99999999999.1",
            "1000.1",
            "18.10000",
        ] {
            assert!(
                ServerVersion::from_server_version(text).is_err(),
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = ServerVersion::from_server_version(&text);
        }
    }
}
