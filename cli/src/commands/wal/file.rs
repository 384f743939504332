//! What PostgreSQL hands to its archive_command, and asks its restore_command for, by name.

use pg_format::TimelineId;

use crate::failure::Failure;

/// A file of `pg_wal`. Whether a segment's number can be is known only together with the segment size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WalFile {
    /// A whole segment, with its name.
    Segment(String),
    /// What an ended timeline has of its last segment, with the segment's name.
    Partial(String),
    /// A timeline's history.
    History(TimelineId),
    /// The label of a backup, which PostgreSQL archives for people to read.
    BackupHistory,
}

impl WalFile {
    pub(super) fn named(name: &str) -> Result<WalFile, Failure> {
        let file = match name.split_once('.') {
            None => is_segment(name).then(|| WalFile::Segment(name.to_owned())),
            Some((segment, "partial")) => {
                is_segment(segment).then(|| WalFile::Partial(segment.to_owned()))
            }
            Some((timeline, "history")) => {
                TimelineId::from_hex(timeline).ok().map(WalFile::History)
            }
            Some((segment, rest)) => {
                let offset = rest.strip_suffix(".backup");
                let backup = is_segment(segment) && offset.is_some_and(|offset| is_hex(offset, 8));
                backup.then_some(WalFile::BackupHistory)
            }
        };
        file.ok_or_else(|| {
            Failure::usage(
                format!(
                    "{name:?} is not the name of a wal file; give the command %p or %f as it is"
                ),
                "",
            )
        })
    }
}

/// PostgreSQL writes capitals; two names for one segment would be two objects.
fn is_segment(text: &str) -> bool {
    is_hex(text, 24) && TimelineId::from_hex(&text[..8]).is_ok()
}

fn is_hex(text: &str, digits: usize) -> bool {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
    text.len() == digits && text.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use pg_format::TimelineId;

    use super::WalFile;

    #[test]
    fn names_are_told_apart() {
        let segment = "00000002000000AB000000FF".to_owned();
        let check = |name: &str, file| assert_eq!(WalFile::named(name).ok(), file, "{name}");
        check(&segment, Some(WalFile::Segment(segment.clone())));
        check(
            &format!("{segment}.partial"),
            Some(WalFile::Partial(segment.clone())),
        );
        let label = format!("{segment}.00000028.backup");
        check(&label, Some(WalFile::BackupHistory));
        let history = WalFile::History(TimelineId(0xA));
        check("0000000A.history", Some(history));
        for other in [
            "",
            "RECOVERYXLOG",
            "000000020000000000000",
            "00000000000000AB000000FF",
            "00000002000000ab000000ff",
            "00000002000000AB000000FF.gz",
            "00000002000000AB000000FF.28.backup",
            "00000002000000AB000000FF.history",
            "0000000A.history.tmp",
            "../00000002000000AB000000FF",
        ] {
            check(other, None);
        }
    }
}
