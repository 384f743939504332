//! `zektor wal status`: what the archiver says now, beside what the catalog has counted. And what PostgreSQL calls:
//! `wal push` and `wal fetch`.

mod admission;
mod archive;
mod examine;
mod fetch;
mod file;
mod push;
mod standstill;

pub(crate) use fetch::{fetch, in_doubt};
pub(crate) use push::push;
pub(crate) use standstill::standstill;

use std::time::Duration;

use events::event::SlotRiskLevel;
use events::position::{ArchiverPosition, PositionQuestion};
use events::query::{self, SlotRisk, WalGap, WalView};
use events::{ArchiveMode, BranchName, InstanceName, Timestamp, subject};
use pg_format::{Lsn, TimelineId};
use serde::Serialize;

use super::status::nobody_answers;
use crate::arguments::OfBranch;
use crate::failure::{Failure, word};
use crate::output::{Reply, exact, note, or_dash, pairs, size, span, table};
use crate::session::Session;

/// The archiver answers from memory.
const POSITION_WITHIN: Duration = Duration::from_secs(3);

/// The archive of a branch, in the fields of the contract and some more.
#[derive(Debug, Serialize)]
struct WalDocument {
    instance: InstanceName,
    branch: BranchName,
    timeline: Option<TimelineId>,
    first_segment: Option<String>,
    last_segment: Option<String>,
    archived_lsn: Option<Lsn>,
    server_lsn: Option<Lsn>,
    /// Where the server was when it was last heard, if that is not now.
    last_heard_server_lsn: Option<Lsn>,
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
    gaps: Vec<WalGap>,
    stored_bytes: u64,
    segments: u64,
    /// Everything committed by then is in the repository.
    proven_at: Option<Timestamp>,
    /// How WAL comes here; absent if the branch is not registered any more.
    archive_mode: Option<ArchiveMode>,
    /// Whether WAL is received now; absent if the archiver does not answer.
    streaming: Option<bool>,
    error: Option<String>,
    /// That the archive does not follow the server now, since when and why; absent while it does.
    standstill: Option<String>,
    /// What the WAL that is held back for the archive means for the source's disk; absent while nobody said so.
    slot_risk: Option<SlotRisk>,
}

/// Shows how far a branch's archive is.
pub(crate) async fn status(session: &Session, of: OfBranch) -> Result<Reply, Failure> {
    let OfBranch { instance, branch } = of;
    let question = query::WalSummary {
        instance: instance.clone(),
        branch: branch.clone(),
    };
    let stored = session.ask_patiently(&question).await?;
    let live = position(session, &instance, &branch).await?;
    if live.is_none() {
        note("no archiver answers for this branch; what follows is what was archived before");
    }
    let registered = session.bus.instances().get(&instance).await?;
    let active = registered
        .as_ref()
        .and_then(|(document, _)| document.branches.get(&branch)?.active());
    let now = session.setting.clock.now();
    let standstill = standstill(live.as_ref(), stored.archived_at, now);
    let mut document = merged(stored, live);
    document.standstill = standstill;
    document.archive_mode = active.map(|active| active.archive_mode);
    let text = text(&document);
    Reply::new(&document, text)
}

/// Where the archive of a branch is now; nothing if no archiver answers.
pub(crate) async fn position(
    session: &Session,
    instance: &InstanceName,
    branch: &BranchName,
) -> Result<Option<ArchiverPosition>, Failure> {
    let subject = subject::archiver_position(instance, branch);
    let answer = session
        .bus
        .request(&subject, &PositionQuestion::default(), POSITION_WITHIN)
        .await;
    match answer {
        Ok(position) => Ok(Some(position)),
        Err(error) if nobody_answers(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn merged(stored: WalView, live: Option<ArchiverPosition>) -> WalDocument {
    let streaming = live.as_ref().map(|live| live.streaming);
    let live = live.unwrap_or_default();
    // Of a server that is not heard nobody knows how far it is.
    let (server_lsn, last_heard_server_lsn) = match live.streaming {
        true => (live.server_lsn, None),
        false => (None, live.server_lsn),
    };
    WalDocument {
        instance: stored.instance,
        branch: stored.branch,
        timeline: live.timeline.or(stored.timeline),
        first_segment: stored.first_segment,
        last_segment: stored.last_segment,
        archived_lsn: live.archived_lsn.or(stored.archived_lsn),
        server_lsn,
        last_heard_server_lsn,
        lag_bytes: live.lag_bytes.filter(|_| live.streaming),
        lag_seconds: live.lag_seconds.filter(|_| live.streaming),
        gaps: stored.gaps,
        stored_bytes: stored.stored_bytes,
        segments: stored.segments,
        proven_at: live.proven_at,
        archive_mode: None,
        streaming,
        error: live.error,
        standstill: None,
        slot_risk: stored.slot_risk,
    }
}

fn text(document: &WalDocument) -> String {
    let lag = document.lag_bytes.map(|bytes| {
        let seconds = document.lag_seconds.unwrap_or_default().max(0.0);
        let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        format!("{}, {}", size(bytes), span(seconds))
    });
    let pushed = document.archive_mode == Some(ArchiveMode::Command);
    let state = match document.streaming {
        Some(true) if pushed => "pushed by the server",
        Some(true) => "streaming",
        Some(false) if pushed => "not watched",
        Some(false) => "not streaming",
        None => "no archiver answers",
    };
    let ends = document
        .first_segment
        .as_ref()
        .zip(document.last_segment.as_ref());
    let mut text = pairs(&[
        ("state", Some(state.to_owned())),
        ("error", document.error.clone()),
        ("timeline", Some(or_dash(document.timeline))),
        ("segments", Some(document.segments.to_string())),
        (
            "range",
            ends.map(|(first, last)| format!("{first} to {last}")),
        ),
        ("archived up to", Some(or_dash(document.archived_lsn))),
        ("server at", Some(server_text(document))),
        ("lag", Some(or_dash(lag))),
        ("complete until", document.proven_at.map(exact)),
        ("stored", Some(size(document.stored_bytes))),
        ("gaps", Some(document.gaps.len().to_string())),
        ("slot risk", document.slot_risk.as_ref().map(risk_text)),
    ]);
    if let Some(standstill) = &document.standstill {
        text.push_str(&format!("\n{standstill}\n"));
    }
    if !document.gaps.is_empty() {
        text.push('\n');
        text.push_str(&gaps_text(&document.gaps));
    }
    text
}

fn server_text(document: &WalDocument) -> String {
    match document.last_heard_server_lsn {
        Some(lsn) => format!("unknown; {lsn} when it was last heard"),
        None => or_dash(document.server_lsn),
    }
}

fn risk_text(risk: &SlotRisk) -> String {
    let held = match risk.limit_bytes {
        Some(limit) => format!("{} of at most {}", size(risk.held_bytes), size(limit)),
        None => size(risk.held_bytes),
    };
    let level = word(risk.level);
    match risk.level {
        SlotRiskLevel::Low => level,
        _ => format!("{level}, {held} held back: {}", risk.message),
    }
}

fn gaps_text(gaps: &[WalGap]) -> String {
    let rows = gaps.iter().map(|gap| {
        vec![
            gap.timeline.to_string(),
            gap.from_lsn.to_string(),
            gap.to_lsn.to_string(),
            size(gap.to_lsn.bytes_since(gap.from_lsn)),
            or_dash(gap.cause.map(word)),
        ]
    });
    table(
        &["timeline", "missing from", "to", "size", "cause"],
        rows.collect(),
    )
}

#[cfg(test)]
mod tests {
    use events::query::WalView;
    use serde_json::json;

    use super::{merged, text};

    fn stored() -> WalView {
        let answer = json!({
            "instance": "orders", "branch": "main", "timeline": 1,
            "first_segment": "000000010000000000000001",
            "last_segment": "000000010000000000000004",
            "archived_lsn": "0/5000000", "archived_at": "2026-03-01T10:00:00Z",
            "stored_bytes": 1_048_576, "segments": 3,
            "gaps": [{
                "timeline": 1, "from_lsn": "0/2000000", "to_lsn": "0/3000000",
                "cause": "removed_by_server", "detected_at": null
            }],
            "slot_risk": {
                "level": "alert", "held_bytes": 9_663_676_416_u64, "limit_bytes": 10_737_418_240_u64,
                "message": "the archive is behind; is the object store slow?",
                "changed_at": "2026-03-01T09:00:00Z"
            }
        });
        serde_json::from_value(answer).unwrap()
    }

    #[test]
    fn live_and_stored_are_one_answer() {
        let live = json!({
            "timeline": 1, "archived_lsn": "0/5800000", "server_lsn": "0/5800060",
            "lag_bytes": 96, "lag_seconds": 1.5, "proven_at": "2026-03-01T10:00:05Z",
            "streaming": true, "error": null
        });
        let document = merged(stored(), Some(serde_json::from_value(live).unwrap()));
        insta::assert_snapshot!(text(&document), @r#"
        state           streaming
        timeline        1
        segments        3
        range           000000010000000000000001 to 000000010000000000000004
        archived up to  0/5800000
        server at       0/5800060
        lag             96 B, 1.5 s
        complete until  2026-03-01T10:00:05.000000Z
        stored          1.0 MiB
        gaps            1
        slot risk       alert, 9.0 GiB of at most 10.0 GiB held back: the archive is behind; is the object store slow?

        TIMELINE  MISSING FROM  TO         SIZE      CAUSE
        1         0/2000000     0/3000000  16.0 MiB  removed_by_server
        "#);
    }

    #[test]
    fn pushed_wal_is_not_called_streaming() {
        let live = json!({
            "timeline": 1, "archived_lsn": "0/5000000", "server_lsn": "0/5800060", "lag_bytes": 8_388_704,
            "lag_seconds": 1.5, "proven_at": "2026-03-01T10:00:05Z", "streaming": true, "error": null
        });
        let mut document = merged(stored(), Some(serde_json::from_value(live).unwrap()));
        document.archive_mode = Some(events::ArchiveMode::Command);
        let text = text(&document);
        assert!(
            text.starts_with("state           pushed by the server\n"),
            "{text}"
        );
    }

    #[test]
    fn of_a_server_that_is_not_heard_the_lag_is_unknown() {
        let live = json!({
            "timeline": 1, "archived_lsn": "0/5000000", "server_lsn": "0/5000000", "lag_bytes": 0,
            "lag_seconds": 0.0, "proven_at": "2026-03-01T10:00:05Z", "streaming": false,
            "error": "connection refused"
        });
        let document = merged(stored(), Some(serde_json::from_value(live).unwrap()));
        let json = serde_json::to_value(&document).unwrap();
        for unknown in ["server_lsn", "lag_bytes", "lag_seconds"] {
            assert!(json[unknown].is_null(), "{unknown}");
        }
        assert_eq!(json["last_heard_server_lsn"], "0/5000000");
        let text = text(&document);
        assert!(text.contains("lag             -\n"), "{text}");
        assert!(text.contains("unknown; 0/5000000 when"), "{text}");
    }

    #[test]
    fn without_an_archiver_what_is_stored_is_shown() {
        let document = merged(stored(), None);
        let json = serde_json::to_value(&document).unwrap();
        assert_eq!(json["archived_lsn"], "0/5000000");
        for unknown in ["server_lsn", "lag_bytes", "lag_seconds", "streaming"] {
            assert!(json[unknown].is_null(), "{unknown}");
        }
        assert!(text(&document).contains("no archiver answers"));
    }
}
