//! `zektor restore --dry-run`: what would be done, the last commit that would be in the branch, and what was looked at.

use std::time::Duration;

use events::event::RestorePlan;
use events::plan::{PlanCheck, RestoreAnswer, RestorePreview, RestoreQuestion};
use events::{BranchName, InstanceName, RestoreTarget, Timestamp, subject};
use serde::Serialize;

use super::target_text;
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
    #[serde(flatten)]
    preview: &'a RestorePreview,
    /// As `restore --wait` has it.
    last_commit_at: Option<Timestamp>,
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
        RestoreAnswer::Possible(preview) => reply(question, &preview),
        RestoreAnswer::Refused(no) => Err(refusal(no.code, &no.message, &no.hint)),
        RestoreAnswer::Unknown { message, hint } => {
            Err(Failure::new(Ending::Failed, "plan_unknown", message, hint))
        }
    }
}

fn reply(question: &RestoreQuestion, preview: &RestorePreview) -> Result<Reply, Failure> {
    let document = PlanDocument {
        instance: &question.instance,
        source_branch: &question.source_branch,
        preview,
        last_commit_at: preview.plan.last_commit.map(|commit| commit.at),
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
        None => "none since the backup began".to_owned(),
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

    use super::{plan_text, reply};

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
        assert!(backup.contains("none since the backup began"), "{backup}");
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
            "last_commit_at",
            "checks",
            "estimated_ms",
            "wal_bytes",
        ] {
            assert!(!document[field].is_null(), "{field}: {document}");
        }
        assert_eq!(document["last_commit_at"], "2026-03-01T10:29:59.123456Z");
    }
}
