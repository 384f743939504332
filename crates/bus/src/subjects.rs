//! Which stream owns a subject, and which patterns cover which.

use events::topology;

use crate::BusError;

/// Whether everything that `narrow` (a subject or a pattern) selects is selected by `pattern`.
pub(crate) fn covers(pattern: &str, narrow: &str) -> bool {
    let mut wide = pattern.split('.');
    let mut tokens = narrow.split('.');
    loop {
        match (wide.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(want), Some(token)) if want == token => {}
            _ => return false,
        }
    }
}

/// The stream that captures `subject`.
pub(crate) fn stream_of(subject: &str) -> Result<String, BusError> {
    if let Some((bucket, _)) = subject
        .strip_prefix("$KV.")
        .and_then(|rest| rest.split_once('.'))
    {
        return Ok(format!("KV_{bucket}"));
    }
    topology::streams()
        .into_iter()
        .find(|stream| stream.subjects.iter().any(|own| covers(own, subject)))
        .map(|stream| stream.name.to_owned())
        .ok_or_else(|| BusError::NoStream {
            subject: subject.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::{covers, stream_of};

    #[test]
    fn patterns() {
        for (pattern, subject, expected) in [
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.*.c", "a.b.c", true),
            ("a.*", "a.b.c", false),
            ("a.>", "a.*.c", true),
            ("a.*", "a.>", false),
            ("a.b", "a.*", false),
            ("a.b.c", "a.b", false),
        ] {
            assert_eq!(covers(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn streams() {
        let owner = |subject| stream_of(subject).unwrap();
        assert_eq!(owner("zektor.backup.*.orders.main.1"), "EVENTS");
        assert_eq!(owner("zektor.wal.segment.archived.orders.main"), "WAL");
        assert_eq!(owner("zektor.command.backup.create.orders"), "COMMANDS");
        assert_eq!(owner("zektor.dlq.catalog"), "DEAD_LETTERS");
        assert_eq!(owner("$KV.zektor-leases.a.b"), "KV_zektor-leases");
        assert!(stream_of("elsewhere.>").is_err());
    }
}
