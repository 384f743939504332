//! In one sentence, that an archive does not follow its server: a window or a position alone looks the same whether it
//! moves or not.

use events::Timestamp;
use events::position::ArchiverPosition;

use crate::output::{exact, span};

/// What is to be said of an archive that stands still; nothing while WAL is received. `live` is absent when no archiver
/// answers; `archived_until` is what the repository itself tells of the last time.
pub(crate) fn standstill(
    live: Option<&ArchiverPosition>,
    archived_until: Option<Timestamp>,
    now: Timestamp,
) -> Option<String> {
    if live.is_some_and(|live| live.streaming) {
        return None;
    }
    let ago = |at: Timestamp| {
        let age = (now - at).to_std().unwrap_or_default();
        format!("{}, {} ago", exact(at), span(age))
    };
    let proven_at = live.and_then(|live| live.proven_at);
    let last = match (proven_at, archived_until) {
        (Some(at), _) => format!("the archive was last proven complete at {}", ago(at)),
        (None, Some(at)) => format!("nothing is known of the archive after {}", ago(at)),
        (None, None) => "it is not known when the archive was last proven complete".to_owned(),
    };
    let why = match live {
        None => "no archiver answers for this branch: see `zektor status`".to_owned(),
        Some(live) => match &live.error {
            Some(error) => format!("the archiver says: {error}"),
            None => "the archiver receives nothing now".to_owned(),
        },
    };
    Some(format!(
        "The archive stands still: {last}; {why}. What was committed since then may not be archived."
    ))
}

#[cfg(test)]
mod tests {
    use events::position::ArchiverPosition;

    use super::standstill;

    #[test]
    fn it_tells_since_when_and_why() {
        let at = |text: &str| text.parse().unwrap();
        let now = at("2026-03-01T10:12:00Z");
        let mut live = ArchiverPosition {
            streaming: true,
            proven_at: Some(at("2026-03-01T10:00:00Z")),
            ..ArchiverPosition::default()
        };
        assert_eq!(standstill(Some(&live), None, now), None);
        live.streaming = false;
        live.error = Some("connection refused".to_owned());
        insta::assert_snapshot!(standstill(Some(&live), None, now).unwrap(), @"The archive stands still: the archive was last proven complete at 2026-03-01T10:00:00.000000Z, 12 min 0 s ago; the archiver says: connection refused. What was committed since then may not be archived.");
        let silent = standstill(None, Some(at("2026-03-01T10:11:00Z")), now).unwrap();
        insta::assert_snapshot!(silent, @"The archive stands still: nothing is known of the archive after 2026-03-01T10:11:00.000000Z, 1 min 0 s ago; no archiver answers for this branch: see `zektor status`. What was committed since then may not be archived.");
    }
}
