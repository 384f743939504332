//! Log sequence numbers: byte positions in the WAL of one cluster.

use std::fmt;
use std::str::FromStr;

/// A byte position in a cluster's WAL (`XLogRecPtr`, PostgreSQL `src/include/access/xlogdefs.h`).
///
/// Written as two hexadecimal halves, `16/B374D848`. Zero is PostgreSQL's "invalid" position.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// PostgreSQL's `InvalidXLogRecPtr`.
    pub const INVALID: Lsn = Lsn(0);

    /// False for PostgreSQL's "invalid" position, zero.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` further on; `None` past the end of the 64-bit range.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_add(bytes).map(Lsn)
    }

    /// The position `bytes` further on, clamped at the end of the 64-bit range.
    #[must_use]
    pub fn saturating_add(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here; zero if `earlier` is in fact later.
    #[must_use]
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an LSN of the form `16/B374D848`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN; expected two hexadecimal numbers like 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| -> Option<u64> {
            let hex = (1..=8).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

crate::text_serde!(Lsn, "^[0-9A-F]{1,8}/[0-9A-F]{1,8}$");

#[cfg(test)]
mod tests {
    use super::Lsn;

    fn check(text: &str, value: u64) {
        assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(value));
        assert_eq!(Lsn(value).to_string(), text);
    }

    #[test]
    fn text_form() {
        check("0/0", 0);
        check("16/B374D848", 0x16_B374_D848);
        check("FFFFFFFF/FFFFFFFF", u64::MAX);
    }

    #[test]
    fn rejects_what_is_not_an_lsn() {
        for text in [
            "",
            "/",
            "1",
            "1/",
            "/1",
            "1/2/3",
            "G/0",
            "+1/0",
            "123456789/0",
            "0/123456789",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
