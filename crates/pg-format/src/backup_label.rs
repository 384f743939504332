//! `backup_label`: where recovery of a base backup must begin.
//!
//! Written by the server (`src/backend/access/transam/xlogbackup.c`), read back by its recovery;
//! the file itself must be restored byte for byte, this only looks into it.

use crate::{Lsn, ParseLsnError, TimelineId};

/// What a `backup_label` file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Start LSN: the redo position of the backup's checkpoint, where replay begins.
    pub start_lsn: Lsn,
    /// The name of the segment that holds `start_lsn`.
    pub start_segment: String,
    /// Where the checkpoint record itself is.
    pub checkpoint_lsn: Lsn,
    /// How the backup was taken.
    pub method: BackupMethod,
    /// Whether the backup was taken from a primary or a standby.
    pub source: BackupSource,
    /// The server's local time with its zone abbreviation, as written: such text names no moment.
    pub start_time: Option<String>,
    /// The label the backup was given.
    pub label: String,
    /// The timeline at `start_lsn`.
    pub start_timeline: TimelineId,
    /// For an incremental backup (PostgreSQL 17 or later), what it builds on.
    pub incremental_from: Option<IncrementalFrom>,
}

/// The backup that an incremental one builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncrementalFrom {
    /// Start LSN of that backup.
    pub start_lsn: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
}

/// The line `BACKUP METHOD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupMethod {
    /// `streamed`: by `BASE_BACKUP`, or between `pg_backup_start` and `pg_backup_stop`.
    Streamed,
    /// `pg_start_backup`: the exclusive mode that PostgreSQL 15 removed.
    Exclusive,
    /// Something else, such as what `pg_rewind` writes.
    Other(String),
}

/// The line `BACKUP FROM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupSource {
    /// A primary.
    Primary,
    /// A server in recovery; consistency is then reached at the control file's minimum recovery
    /// point.
    Standby,
}

impl BackupLabel {
    /// Parses the bytes of a `backup_label`. Lines it does not know are skipped.
    ///
    /// The label is in the database's encoding; what is not UTF-8 in it is replaced.
    pub fn parse(bytes: &[u8]) -> Result<Self, BackupLabelError> {
        let text = String::from_utf8_lossy(bytes);
        let lines = Lines(&text);
        let (start_lsn, start_segment) = lines.start()?;
        let method = match lines.optional("BACKUP METHOD") {
            Some("streamed") | None => BackupMethod::Streamed,
            Some("pg_start_backup") => BackupMethod::Exclusive,
            Some(other) => BackupMethod::Other(other.to_owned()),
        };
        let source = match lines.optional("BACKUP FROM") {
            Some("standby") => BackupSource::Standby,
            Some("primary") | None => BackupSource::Primary,
            Some(other) => {
                return Err(BackupLabelError::Value {
                    field: "BACKUP FROM",
                    value: other.to_owned(),
                });
            }
        };
        let start_timeline =
            match lines.optional("START TIMELINE") {
                Some(value) => timeline("START TIMELINE", value)?,
                None => TimelineId::from_hex(start_segment.get(..8).unwrap_or_default()).map_err(
                    |_| BackupLabelError::Missing {
                        field: "START TIMELINE",
                    },
                )?,
            };
        Ok(BackupLabel {
            start_lsn,
            start_segment,
            checkpoint_lsn: lines.lsn("CHECKPOINT LOCATION")?,
            method,
            source,
            start_time: lines.optional("START TIME").map(str::to_owned),
            label: lines.optional("LABEL").unwrap_or_default().to_owned(),
            start_timeline,
            incremental_from: lines.incremental_from()?,
        })
    }
}

/// The lines of the file, looked up by the field before the colon.
struct Lines<'a>(&'a str);

impl<'a> Lines<'a> {
    fn optional(&self, field: &str) -> Option<&'a str> {
        let value = |line: &'a str| line.strip_prefix(field)?.strip_prefix(": ");
        self.0
            .lines()
            .find_map(value)
            .map(|value| value.trim_end_matches('\r'))
    }

    fn required(&self, field: &'static str) -> Result<&'a str, BackupLabelError> {
        self.optional(field)
            .ok_or(BackupLabelError::Missing { field })
    }

    fn lsn(&self, field: &'static str) -> Result<Lsn, BackupLabelError> {
        parse_lsn(field, self.required(field)?)
    }

    /// `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)`
    fn start(&self) -> Result<(Lsn, String), BackupLabelError> {
        let field = "START WAL LOCATION";
        let value = self.required(field)?;
        let (lsn, file) = value.split_once(" (file ").unwrap_or((value, ""));
        let segment = file.strip_suffix(')').unwrap_or_default();
        if segment.len() != 24 || !segment.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BackupLabelError::Value {
                field,
                value: value.to_owned(),
            });
        }
        Ok((parse_lsn(field, lsn)?, segment.to_owned()))
    }

    fn incremental_from(&self) -> Result<Option<IncrementalFrom>, BackupLabelError> {
        let Some(lsn) = self.optional("INCREMENTAL FROM LSN") else {
            return Ok(None);
        };
        Ok(Some(IncrementalFrom {
            start_lsn: parse_lsn("INCREMENTAL FROM LSN", lsn)?,
            timeline: timeline(
                "INCREMENTAL FROM TLI",
                self.required("INCREMENTAL FROM TLI")?,
            )?,
        }))
    }
}

fn parse_lsn(field: &'static str, value: &str) -> Result<Lsn, BackupLabelError> {
    value
        .parse()
        .map_err(|source| BackupLabelError::Lsn { field, source })
}

fn timeline(field: &'static str, value: &str) -> Result<TimelineId, BackupLabelError> {
    let number = value.parse().ok().filter(|number| *number > 0);
    number
        .map(TimelineId)
        .ok_or_else(|| BackupLabelError::Value {
            field,
            value: value.to_owned(),
        })
}

/// The bytes are not a `backup_label`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// A line that every `backup_label` has is not there.
    #[error("backup_label has no line {field:?}")]
    Missing {
        /// The text before the colon.
        field: &'static str,
    },
    /// A line says something that cannot be.
    #[error("backup_label says {value:?} for {field:?}")]
    Value {
        /// The text before the colon.
        field: &'static str,
        /// The text after it.
        value: String,
    },
    /// A position cannot be read.
    #[error("backup_label has no valid position in {field:?}")]
    Lsn {
        /// The text before the colon.
        field: &'static str,
        /// Why not.
        #[source]
        source: ParseLsnError,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{BackupLabel, BackupMethod, BackupSource, IncrementalFrom};
    use crate::{Lsn, TimelineId};

    const FULL: &str = "START WAL LOCATION: 16/2000028 (file 000000030000001600000002)\n\
        CHECKPOINT LOCATION: 16/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: standby\n\
        START TIME: 2026-02-03 04:05:06 CET\nLABEL: zektor: nightly\nSTART TIMELINE: 3\n";

    #[test]
    fn reads_every_line() {
        let label = BackupLabel::parse(FULL.as_bytes()).unwrap();
        assert_eq!(
            label,
            BackupLabel {
                start_lsn: Lsn(0x16_0200_0028),
                start_segment: "000000030000001600000002".to_owned(),
                checkpoint_lsn: Lsn(0x16_0200_0060),
                method: BackupMethod::Streamed,
                source: BackupSource::Standby,
                start_time: Some("2026-02-03 04:05:06 CET".to_owned()),
                label: "zektor: nightly".to_owned(),
                start_timeline: TimelineId(3),
                incremental_from: None,
            }
        );
    }

    #[test]
    fn reads_what_an_incremental_backup_builds_on() {
        let text = format!("{FULL}INCREMENTAL FROM LSN: 15/28\nINCREMENTAL FROM TLI: 2\n");
        let label = BackupLabel::parse(text.as_bytes()).unwrap();
        let from = IncrementalFrom {
            start_lsn: Lsn(0x15_0000_0028),
            timeline: TimelineId(2),
        };
        assert_eq!(label.incremental_from, Some(from));
        let cut = text.replace("INCREMENTAL FROM TLI: 2\n", "");
        assert!(BackupLabel::parse(cut.as_bytes()).is_err());
    }

    #[test]
    fn a_label_in_another_encoding_is_still_read() {
        let mut bytes = FULL.as_bytes().to_vec();
        let at = FULL.find("nightly").unwrap();
        bytes[at] = 0xE9;
        assert_eq!(
            BackupLabel::parse(&bytes).unwrap().label,
            "zektor: \u{FFFD}ightly"
        );
    }

    #[test]
    fn refuses_a_label_without_its_positions() {
        for line in FULL.lines().take(2) {
            let cut = FULL.replace(line, "");
            assert!(
                BackupLabel::parse(cut.as_bytes()).is_err(),
                "without {line:?}"
            );
        }
        assert!(BackupLabel::parse(FULL.replace("standby", "tape").as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..FULL.len()) {
            let _ = BackupLabel::parse(&bytes);
            let mut damaged = FULL.as_bytes().to_vec();
            drop(damaged.splice(at..(at + bytes.len()).min(FULL.len()), bytes));
            let _ = BackupLabel::parse(&damaged);
        }
    }
}
