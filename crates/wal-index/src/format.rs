//! How the index is stored: JSON lines, the first of which names the format.
//!
//! Short keys and differences instead of positions and times, because it is written for every segment; whoever stores
//! it compresses it. What a newer version adds to a line is ignored; another format version is refused.

mod event;
mod interval;
#[cfg(test)]
mod tests;
mod transaction;

use pg_format::Lsn;
use serde::{Deserialize, Serialize};

use crate::model::SegmentIndex;
use event::StoredEvent;
use interval::StoredInterval;
pub(crate) use transaction::StoredFile;
use transaction::StoredOpen;

/// The version this module writes, and the newest it reads.
const VERSION: u32 = 1;

/// Stored bytes are not an index.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// No first line.
    #[error("the stored index is empty")]
    Empty,
    /// Written by a newer Zektor.
    #[error(
        "the stored index has format version {found}, this version of zektor reads up to {VERSION}; upgrade it"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// A line is not what it must be.
    #[error("line {line} of the stored index cannot be read")]
    Line {
        /// The line, counted from one.
        line: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    /// Format version.
    v: u32,
}

/// A segment, as a line.
#[derive(Serialize, Deserialize)]
struct StoredSegment {
    #[serde(rename = "s")]
    segment: u64,
    #[serde(rename = "a")]
    start: u64,
    #[serde(rename = "b")]
    bytes: u64,
    /// The time that others are told relative to, in microseconds.
    #[serde(rename = "t", default)]
    base_time: i64,
    #[serde(rename = "i")]
    intervals: Vec<StoredInterval>,
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    events: Vec<StoredEvent>,
    #[serde(rename = "o", default, skip_serializing_if = "Vec::is_empty")]
    open: Vec<StoredOpen>,
    #[serde(rename = "u", default, skip_serializing_if = "is_zero")]
    undecoded: u32,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The stored form of a group of segments; always the same for the same segments.
#[must_use]
pub fn encode(segments: &[SegmentIndex]) -> Vec<u8> {
    let mut bytes = Vec::new();
    header(&mut bytes);
    for segment in segments {
        line(&mut bytes, &StoredSegment::of(segment));
    }
    bytes
}

/// Reads what [`encode`] wrote, by this version or an older one.
pub fn decode(bytes: &[u8]) -> Result<Vec<SegmentIndex>, FormatError> {
    let mut lines = lines(bytes)?;
    lines.try_fold(Vec::new(), |mut segments, (line, text)| {
        let stored: StoredSegment = parse(line, text)?;
        segments.push(stored.into_segment());
        Ok(segments)
    })
}

/// The first line.
pub(crate) fn header(bytes: &mut Vec<u8>) {
    line(bytes, &Header { v: VERSION });
}

/// Appends a line. Values of these types always have a JSON form.
pub(crate) fn line(bytes: &mut Vec<u8>, value: &impl Serialize) {
    if serde_json::to_writer(&mut *bytes, value).is_ok() {
        bytes.push(b'\n');
    }
}

/// Checks the first line, and gives the others with their numbers.
pub(crate) fn lines(
    bytes: &[u8],
) -> Result<impl Iterator<Item = (usize, &[u8])> + use<'_>, FormatError> {
    let mut lines = bytes
        .split(|byte| *byte == b'\n')
        .enumerate()
        .map(|(at, text)| (at + 1, text))
        .filter(|(_, text)| !text.is_empty());
    let (number, first) = lines.next().ok_or(FormatError::Empty)?;
    let header: Header = parse(number, first)?;
    if header.v > VERSION {
        return Err(FormatError::Version { found: header.v });
    }
    Ok(lines)
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(line: usize, text: &'a [u8]) -> Result<T, FormatError> {
    serde_json::from_slice(text).map_err(|source| FormatError::Line { line, source })
}

impl StoredSegment {
    fn of(segment: &SegmentIndex) -> Self {
        let base_time = segment
            .intervals
            .iter()
            .find_map(|interval| interval.ends.as_ref())
            .map_or(0, |ends| ends.min_time.0);
        let mut from = base_time;
        StoredSegment {
            segment: segment.segment,
            start: segment.start.0,
            bytes: segment.end.bytes_since(segment.start),
            base_time,
            intervals: segment
                .intervals
                .iter()
                .map(|interval| StoredInterval::of(interval, &mut from))
                .collect(),
            events: segment
                .events
                .iter()
                .map(|event| StoredEvent::of(event, segment.start, base_time))
                .collect(),
            open: segment.open.iter().map(StoredOpen::of).collect(),
            undecoded: segment.undecoded,
        }
    }

    fn into_segment(self) -> SegmentIndex {
        let start = Lsn(self.start);
        let (mut position, mut from) = (start, self.base_time);
        SegmentIndex {
            segment: self.segment,
            start,
            end: start.saturating_add(self.bytes),
            intervals: self
                .intervals
                .into_iter()
                .map(|stored| stored.into_interval(&mut position, &mut from))
                .collect(),
            events: self
                .events
                .into_iter()
                .filter_map(|stored| stored.into_event(start, self.base_time))
                .collect(),
            open: self.open.into_iter().map(StoredOpen::into_open).collect(),
            undecoded: self.undecoded,
        }
    }
}
