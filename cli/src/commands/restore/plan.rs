//! `zektor restore --dry-run`: what would be done, the last commit that would be in the branch, and what was looked at.

use std::time::Duration;

use chrono::SubsecRound as _;
use events::event::{RefusalCode, RestorePlan};
use events::plan::{PlanCheck, RestoreAnswer, RestorePreview, RestoreQuestion};
use events::window::Window;
use events::{BranchName, InstanceName, RestoreTarget, Timestamp, subject};
use pg_format::Lsn;
use serde::Serialize;

use super::target_text;
use crate::arguments::OfBranch;
use crate::commands::window;
use crate::failure::{Ending, Failure, refusal, word};
use crate::output::{Reply, exact, pairs, size, span, table};
use crate::progress::Progress;
use crate::session::Session;

/// A plan lists the repository.
const PLANNED_WITHIN: Duration = Duration::from_secs(60);

/// What `--dry-run` says: the plan without the branch.
#[derive(Debug, Serialize)]
struct PlanDocument<'a> {
    instance: &'a InstanceName,
    source_branch: &'a BranchName,
    /// Its `stop_lsn` is what a restore's is: where the last record to replay ends.
    #[serde(flatten)]
    preview: &'a RestorePreview,
    /// As `restore --wait` has it.
    last_commit_at: Option<Timestamp>,
    /// Where that record begins; absent where the branch is what the backup is at its end.
    stop_record_lsn: Option<Lsn>,
}

pub(super) async fn dry_run(
    session: &Session,
    question: &RestoreQuestion,
) -> Result<Reply, Failure> {
    let progress = Progress::start("the restorer makes the plan");
    let answer = session
        .request(&subject::restorer_plan(), question, PLANNED_WITHIN)
        .await;
    drop(progress);
    match answer? {
        RestoreAnswer::Possible(mut preview) => {
            // The server's clock, and all times that are shown, have microseconds.
            preview.latest = preview.latest.map(|latest| latest.trunc_subsecs(6));
            reply(question, &preview)
        }
        RestoreAnswer::Refused(no) => {
            // A restorer knows branches by their backups; a name that is a slip of the pen has none.
            if no.code == RefusalCode::NotFound {
                let (instance, branch) = (&question.instance, &question.source_branch);
                session.require_branch(instance, branch).await?;
            }
            Err(refusal(no.code, &no.message, &no.hint))
        }
        RestoreAnswer::Unknown { message, hint } => {
            Err(Failure::new(Ending::Failed, "plan_unknown", message, hint))
        }
    }
}

/// The refusal of a time outside the window, with the latest position: the rule that a time must be some minutes old does
/// not apply to that.
pub(super) async fn with_position(
    session: &Session,
    of: &OfBranch,
    failure: Failure,
    at: Timestamp,
) -> Failure {
    if failure.code != word(RefusalCode::OutsideWindow) {
        return failure;
    }
    match window::of_branch(session, of).await {
        Ok(window) => with_lsn(failure, at, &window),
        Err(_) => failure,
    }
}

fn with_lsn(mut failure: Failure, at: Timestamp, window: &Window) -> Failure {
    let archived = window.latest.is_some_and(|latest| at <= latest);
    let inside = window.earliest.is_some_and(|earliest| at > earliest);
    if let Some(lsn) = window.latest_lsn.filter(|_| archived && inside) {
        let more = format!(
            "a position works at once: --lsn {lsn} is the latest, `zektor moments` tells the others"
        );
        failure.hint = match failure.hint.as_str() {
            "" => more,
            hint => format!("{hint}; {more}"),
        };
    }
    failure
}

fn reply(question: &RestoreQuestion, preview: &RestorePreview) -> Result<Reply, Failure> {
    let mut shown = preview.clone();
    shown.plan.stop_lsn = Some(preview.fork_lsn.unwrap_or(preview.plan.end_lsn));
    let document = PlanDocument {
        instance: &question.instance,
        source_branch: &question.source_branch,
        preview: &shown,
        last_commit_at: preview.plan.last_commit.map(|commit| commit.at),
        stop_record_lsn: preview.plan.stop_lsn,
    };
    Reply::new(&document, plan_text(preview))
}

fn plan_text(preview: &RestorePreview) -> String {
    let RestorePlan {
        backup_id,
        timeline,
        start_lsn,
        end_lsn,
        logical_bytes,
        wal_bytes,
        ..
    } = &preview.plan;
    let replay = format!("{start_lsn} to {end_lsn} at most, {}", size(*wal_bytes));
    let mut text = pairs(&[
        ("target", Some(target_text(&preview.target))),
        ("last commit", Some(last_commit_text(&preview.plan))),
        ("stops at", Some(stop_text(&preview.target, &preview.plan))),
        ("backup", Some(backup_id.to_string())),
        ("timeline", Some(timeline.to_string())),
        ("replay", Some(replay)),
        ("files", Some(size(*logical_bytes))),
        (
            "may take",
            Some(span(Duration::from_millis(preview.estimated_ms))),
        ),
        ("latest time", preview.latest.map(exact)),
    ]);
    if !preview.checks.is_empty() {
        text.push('\n');
        text.push_str(&checks_text(&preview.checks));
    }
    text
}

/// The last commit that will be in the branch.
fn last_commit_text(plan: &RestorePlan) -> String {
    match plan.last_commit {
        Some(commit) => format!("{}, transaction {}", exact(commit.at), commit.xid),
        None => "not known: the archived WAL before it has none".to_owned(),
    }
}

fn stop_text(target: &RestoreTarget, plan: &RestorePlan) -> String {
    match (plan.stop_lsn, target) {
        (Some(lsn), _) => format!("{lsn}, what begins there included"),
        (None, RestoreTarget::Latest) => "the end of the archive".to_owned(),
        (None, _) => "where the backup is consistent".to_owned(),
    }
}

pub(super) fn checks_text(checks: &[PlanCheck]) -> String {
    let rows = checks
        .iter()
        .map(|check| vec![check.name.clone(), word(check.state), check.detail.clone()]);
    table(&["check", "state", "detail"], rows.collect())
}

#[cfg(test)]
mod tests {
    use events::plan::{RestorePreview, RestoreQuestion};
    use serde_json::{Value, json};

    use super::{plan_text, reply, with_lsn};
    use crate::failure::Failure;

    fn preview(target: Value, stop: Value) -> RestorePreview {
        let mut preview = json!({
            "target": target,
            "backup_id": "0190a5d0-0000-7000-8000-000000000001",
            "timeline": 1,
            "start_lsn": "0/3000028",
            "end_lsn": "0/6000000",
            "logical_bytes": 33_554_432,
            "wal_bytes": 50_331_608,
            "estimated_ms": 4000,
            "checks": [{ "name": "wal", "state": "passed", "detail": "3 segments, no gap" }],
            "latest": "2026-03-01T10:30:00Z"
        });
        if !stop.is_null() {
            preview["stop_lsn"] = stop;
            preview["last_commit"] =
                json!({ "at": "2026-03-01T10:29:59.123456Z", "lsn": "0/5FFFF00", "xid": 8122 });
        }
        serde_json::from_value(preview).unwrap()
    }

    fn time() -> RestorePreview {
        let target = json!({ "kind": "time", "at": "2026-03-01T10:30:00Z" });
        preview(target, json!("0/5FFFF40"))
    }

    #[test]
    fn a_plan_tells_the_last_commit_and_where_it_stops() {
        insta::assert_snapshot!(plan_text(&time()), @r#"
        target       2026-03-01T10:30:00.000000Z
        last commit  2026-03-01T10:29:59.123456Z, transaction 8122
        stops at     0/5FFFF40, what begins there included
        backup       0190a5d0-0000-7000-8000-000000000001
        timeline     1
        replay       0/3000028 to 0/6000000 at most, 48.0 MiB
        files        32.0 MiB
        may take     4.0 s
        latest time  2026-03-01T10:30:00.000000Z

        CHECK  STATE   DETAIL
        wal    passed  3 segments, no gap
        "#);
        let latest = plan_text(&preview(json!({ "kind": "latest" }), Value::Null));
        assert!(latest.contains("the end of the archive"), "{latest}");
        let id = "0190a5d0-0000-7000-8000-000000000001";
        let backup = plan_text(&preview(json!({ "kind": "backup", "id": id }), Value::Null));
        assert!(
            backup.contains("where the backup is consistent"),
            "{backup}"
        );
        assert!(backup.contains("last commit  not known"), "{backup}");
    }

    #[test]
    fn a_time_that_is_too_young_has_a_position() {
        let window = serde_json::from_value(json!({
            "earliest": "2026-03-01T10:00:00Z", "latest": "2026-03-01T10:30:00Z", "latest_lsn": "0/5000000",
            "gaps": [], "complete": true, "earliest_backup_id": null, "timeline": 1
        }));
        let window: events::window::Window = window.unwrap();
        let hint = |at: &str| {
            let failure = Failure::usage("too young", "wait");
            with_lsn(failure, at.parse().unwrap(), &window).hint
        };
        assert!(hint("2026-03-01T10:30:00Z").contains("--lsn 0/5000000"));
        assert_eq!(hint("2026-03-01T10:31:00Z"), "wait");
        assert_eq!(hint("2026-03-01T09:00:00Z"), "wait");
    }

    #[test]
    fn the_document_has_the_fields_of_the_contract_at_its_top() {
        let question = json!({
            "instance": "orders", "source_branch": "main", "branch": null,
            "target": { "kind": "latest" }
        });
        let question: RestoreQuestion = serde_json::from_value(question).unwrap();
        let reply = reply(&question, &time()).unwrap();
        let document: Value = serde_json::from_str(&reply.document).unwrap();
        for field in [
            "instance",
            "source_branch",
            "target",
            "backup_id",
            "stop_lsn",
            "stop_record_lsn",
            "last_commit_at",
            "checks",
            "estimated_ms",
            "wal_bytes",
        ] {
            assert!(!document[field].is_null(), "{field}: {document}");
        }
        assert_eq!(document["last_commit_at"], "2026-03-01T10:29:59.123456Z");
    }

    #[test]
    fn stop_lsn_is_where_the_restore_will_have_stopped() {
        let question = json!({
            "instance": "orders", "source_branch": "main", "branch": null,
            "target": { "kind": "latest" }
        });
        let question: RestoreQuestion = serde_json::from_value(question).unwrap();
        let stops = |preview: &RestorePreview| {
            let reply = reply(&question, preview).unwrap();
            let document: Value = serde_json::from_str(&reply.document).unwrap();
            (
                document["stop_lsn"].clone(),
                document["stop_record_lsn"].clone(),
            )
        };
        let mut switched = time();
        switched.fork_lsn = Some("0/7000000".parse().unwrap());
        assert_eq!(stops(&switched), (json!("0/7000000"), json!("0/5FFFF40")));
        assert_eq!(stops(&time()), (json!("0/6000000"), json!("0/5FFFF40")));
        let backup = preview(json!({ "kind": "latest" }), Value::Null);
        assert_eq!(stops(&backup), (json!("0/6000000"), Value::Null));
    }
}
