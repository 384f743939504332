//! A number of bytes in a setting: `1GiB`, `64 MiB`, `1048576`. For `#[serde(with = "bytes")]`.
//!
//! What must stay true: what is written is read again as the same number. Units of 1000 are refused, for half of
//! those who write `1GB` mean the other one.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (number, unit) = (number.parse::<u64>().ok()?, unit.trim());
    if unit.is_empty() {
        return Some(number);
    }
    let of = |known: &&(&str, u32)| known.0.eq_ignore_ascii_case(unit);
    let (_, bits) = UNITS.iter().find(of)?;
    number.checked_mul(1 << bits)
}

fn text(bytes: u64) -> String {
    let whole = |unit: &&(&str, u32)| bytes > 0 && bytes.trailing_zeros() >= unit.1;
    match UNITS.iter().find(whole) {
        Some((unit, bits)) => format!("{}{unit}", bytes >> bits),
        None => bytes.to_string(),
    }
}

/// Writes it with the largest unit that loses nothing.
///
/// # Errors
/// As the serializer's.
pub(super) fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*bytes))
}

/// Reads it, from text or a number.
///
/// # Errors
/// It is neither.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Bytes)
}

/// The same for a setting that may be absent.
pub(super) mod optional {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Size(#[serde(with = "super")] u64);

    /// As that of a size.
    ///
    /// # Errors
    /// As the serializer's.
    pub(in crate::config) fn serialize<S: Serializer>(
        bytes: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.map(Size).serialize(serializer)
    }

    /// As that of a size.
    ///
    /// # Errors
    /// It is there, and neither text nor a number.
    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        let size = Option::<Size>::deserialize(deserializer)?;
        Ok(size.map(|size| size.0))
    }
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, as 64MiB or 1GiB")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
        Ok(bytes)
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
        u64::try_from(bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<u64, E> {
        parse(value).ok_or_else(|| E::invalid_value(de::Unexpected::Str(value), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, text};

    #[test]
    fn what_is_written_is_read_again() {
        let check = |written: &str, bytes: u64, shown: &str| {
            assert_eq!(parse(written), Some(bytes), "{written}");
            assert_eq!(text(bytes), shown);
            assert_eq!(parse(shown), Some(bytes));
        };
        check("1GiB", 1 << 30, "1GiB");
        check(" 64 mib ", 64 << 20, "64MiB");
        check("1536KiB", 1536 << 10, "1536KiB");
        check("1000", 1000, "1000B");
        check("0", 0, "0");
        for refused in ["", "GiB", "1GB", "-1", "1.5GiB", "99999999999TiB"] {
            assert_eq!(parse(refused), None, "{refused}");
        }
    }
}
