//! Timelines and system identifiers: which history, of which cluster, a WAL position belongs to.

use std::fmt;
use std::str::FromStr;

/// A timeline number (`TimeLineID`), from 1 upwards. JSON: a number.
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
pub struct TimelineId(pub u32);

impl TimelineId {
    /// Eight hexadecimal digits, as in file names: `00000001`.
    #[must_use]
    pub fn to_hex(self) -> String {
        format!("{:08X}", self.0)
    }

    /// Parses the eight hexadecimal digits of a file name.
    pub fn from_hex(text: &str) -> Result<Self, ParseTimelineError> {
        let hex = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| u32::from_str_radix(text, 16).ok())
            .flatten()
            .filter(|number| *number > 0)
            .map(TimelineId)
            .ok_or_else(|| ParseTimelineError(text.to_owned()))
    }

    /// The name of this timeline's history file, `00000002.history`. Timeline 1 has none.
    #[must_use]
    pub fn history_file_name(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The text is not a timeline number in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a timeline; expected eight hexadecimal digits, not all zero")]
pub struct ParseTimelineError(String);

/// The cluster's system identifier, made once by `initdb` and shared by every copy of the cluster.
/// JSON: a decimal string, because it does not fit a double.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemIdentifier(pub u64);

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for SystemIdentifier {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(SystemIdentifier)
    }
}

crate::text_serde!(SystemIdentifier, "^[0-9]{1,20}$");
