//! Each instance: whether its WAL is archived, when it was last backed up, and what its slot holds back.

use chrono::TimeDelta;
use events::document::{ActiveBranch, slot_name};
use events::position::ArchiverPosition;
use events::query::{self, BackupStatus};
use events::{ArchiveMode, BranchName, InstanceDocument, InstanceName, Timestamp};
use futures::{StreamExt as _, stream};
use pg_replication::{ConnectionSettings, PgError, SqlConnection, quote_literal};
use service::MasterKey;
use service::run::chain;
use service::seal::{ExposeSecret, dsn_context};

use super::{ANSWER_WITHIN, Check, in_time, no_answer};
use crate::arguments::OfBranch;
use crate::commands::wal::position;
use crate::commands::window::open_gap;
use crate::failure::Failure;
use crate::output::{moment, size, span};
use crate::session::Session;

/// An archive that is further behind loses more than a person expects.
const LAG_SECONDS: f64 = 120.0;
/// The default schedule is daily; a missed one should be seen.
const BACKUP_AGE: TimeDelta = TimeDelta::hours(26);
/// Deleting takes minutes, and for years of WAL hours.
const SWEEP_AGE: TimeDelta = TimeDelta::hours(24);
/// Each is asked four things.
const BRANCHES_AT_ONCE: usize = 8;
/// WAL that a slot holds back on the source fills its disk.
const RETAINED_BYTES: u64 = 4 << 30;

pub(super) async fn check(session: &Session) -> Vec<Check> {
    let listed = tokio::time::timeout(ANSWER_WITHIN, session.bus.instances().listing()).await;
    let listing = match listed {
        Ok(Ok(listing)) => listing,
        Ok(Err(error)) => return vec![Check::of_failure("instances", error.into())],
        Err(_elapsed) => return vec![no_answer("instances")],
    };
    let key = session.master_key().ok();
    let unreadable = listing.unreadable.iter().map(|instance| {
        Check::failed(
            format!("{instance} document"),
            "it is damaged, or of a newer version of zektor; nothing new is begun for this instance",
            "run services and command line of the version that wrote it",
        )
    });
    let unreadable: Vec<_> = unreadable.collect();
    let active = listing
        .documents
        .iter()
        .filter(|document| !document.removing)
        .flat_map(|document| {
            let branches = document.branches.iter();
            branches.filter_map(|(name, branch)| Some((&document.instance, name, branch.active()?)))
        });
    // At the same time: what does not answer is waited for once, not once for each branch.
    let checks = active
        .map(|(instance, name, active)| of_branch(session, key.as_ref(), instance, name, active));
    let checks = stream::iter(checks).buffered(BRANCHES_AT_ONCE);
    let checks = checks.collect::<Vec<_>>().await.concat();
    let now = session.setting.clock.now();
    let stuck = listing.documents.iter().flat_map(|one| of_sweeps(one, now));
    unreadable.into_iter().chain(checks).chain(stuck).collect()
}

/// Says something only of a deletion that nobody does: until it is over nothing else of its branch is deleted.
fn of_sweeps(document: &InstanceDocument, now: Timestamp) -> Vec<Check> {
    let old = document.sweeps.iter();
    let old = old.filter(|(_, sweep)| now - sweep.asked_at > SWEEP_AGE);
    let checks = old.map(|(branch, sweep)| {
        Check::warning(
            named(&document.instance, branch, "retention"),
            format!("what retention let go at {} is not deleted yet", moment(sweep.asked_at)),
            "does a backup worker run? see `zektor status` and its log; the repository grows until then",
        )
    });
    checks.collect()
}

async fn of_branch(
    session: &Session,
    key: Option<&MasterKey>,
    instance: &InstanceName,
    branch: &BranchName,
    active: &ActiveBranch,
) -> Vec<Check> {
    let called = |what| named(instance, branch, what);
    let slot = async {
        // Without the key nobody can log in to look; that it is missing was said.
        let key = key.filter(|_| active.archive_mode == ArchiveMode::Stream)?;
        Some(in_time(called("slot"), slot(key, instance, branch, active)).await)
    };
    let gap = async {
        let asked = tokio::time::timeout(ANSWER_WITHIN, gap(session, instance, branch)).await;
        asked.unwrap_or_else(|_elapsed| Some(no_answer(called("window"))))
    };
    let (wal, backup, gap, slot) = tokio::join!(
        in_time(called("wal"), archiving(session, instance, branch)),
        in_time(called("backup"), last_backup(session, instance, branch)),
        gap,
        slot,
    );
    [wal, backup].into_iter().chain(gap).chain(slot).collect()
}

fn named(instance: &InstanceName, branch: &BranchName, what: &str) -> String {
    format!("{instance}/{branch} {what}")
}

async fn archiving(session: &Session, instance: &InstanceName, branch: &BranchName) -> Check {
    let name = named(instance, branch, "wal");
    match position(session, instance, branch).await {
        Ok(Some(position)) => of_position(name, &position),
        Ok(None) => {
            let hint = "is the wal-archiver running? see `zektor status`";
            Check::failed(name, "no archiver answers for this branch", hint)
        }
        Err(failure) => Check::of_failure(name, failure),
    }
}

fn of_position(name: String, position: &ArchiverPosition) -> Check {
    if !position.streaming {
        let reason = position.error.as_deref().unwrap_or("it did not say why");
        let hint = "the source must be reachable and let the role replicate";
        return Check::failed(name, format!("not streaming: {reason}"), hint);
    }
    let seconds = position.lag_seconds.unwrap_or_default().max(0.0);
    let lag = span(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let detail = format!(
        "streaming, {} and {lag} behind",
        size(position.lag_bytes.unwrap_or(0))
    );
    if seconds > LAG_SECONDS {
        let hint = "is the object store slow, or the network? see the wal-archiver's log";
        return Check::warning(name, detail, hint);
    }
    Check::ok(name, detail)
}

async fn last_backup(session: &Session, instance: &InstanceName, branch: &BranchName) -> Check {
    let name = named(instance, branch, "backup");
    let question = query::BackupList {
        instance: Some(instance.clone()),
        branch: Some(branch.clone()),
        status: Some(BackupStatus::Completed),
        limit: Some(1),
        ..query::BackupList::default()
    };
    match session.ask(&question).await {
        Ok(answer) => {
            let last = answer
                .backups
                .first()
                .and_then(|backup| backup.backed_up_at);
            let how = format!("zektor backup create {instance} --branch {branch} --wait");
            of_last_backup(name, last, session.setting.clock.now(), &how)
        }
        Err(failure) => Check::of_failure(name, failure),
    }
}

/// Says something only when WAL is missing and no backup lies behind the gap.
async fn gap(session: &Session, instance: &InstanceName, branch: &BranchName) -> Option<Check> {
    let name = named(instance, branch, "window");
    let of = OfBranch {
        instance: instance.clone(),
        branch: branch.clone(),
    };
    match open_gap(session, &of).await {
        Ok(None) => None,
        Ok(Some(from)) => Some(Check::failed(
            name,
            format!("wal is missing from {from} on; nothing later can be restored"),
            format!("run `zektor backup create {instance} --branch {branch} --wait`"),
        )),
        Err(failure) => Some(Check::of_failure(name, failure)),
    }
}

fn of_last_backup(name: String, last: Option<Timestamp>, now: Timestamp, how: &str) -> Check {
    match last {
        None => Check::failed(
            name,
            "there is none, so nothing can be restored",
            format!("run `{how}`"),
        ),
        Some(last) if now - last > BACKUP_AGE => Check::warning(
            name,
            format!("the last one is of {}", moment(last)),
            format!("run `{how}`"),
        ),
        Some(last) => Check::ok(name, format!("the last one is of {}", moment(last))),
    }
}

/// What the slot does on the source itself.
struct Slot {
    active: bool,
    wal_status: String,
    retained_bytes: u64,
}

async fn slot(
    key: &MasterKey,
    instance: &InstanceName,
    branch: &BranchName,
    active: &ActiveBranch,
) -> Check {
    let name = named(instance, branch, "slot");
    let dsn = match key.open(&active.dsn, &dsn_context(instance, branch)) {
        Ok(dsn) => dsn,
        Err(error) => return Check::of_failure(name, error.into()),
    };
    let settings = match ConnectionSettings::parse(dsn.expose_secret()) {
        Ok(settings) => settings,
        Err(error) => return Check::of_failure(name, Failure::local("the dsn is damaged", &error)),
    };
    match read_slot(&settings, &slot_name(instance, branch)).await {
        Ok(slot) => of_slot(name, slot),
        Err(error) => {
            let hint = "can this machine reach the source, and may the role log in?";
            Check::warning(
                name,
                format!("the source cannot be asked: {}", chain(&error)),
                hint,
            )
        }
    }
}

async fn read_slot(settings: &ConnectionSettings, slot: &str) -> Result<Option<Slot>, PgError> {
    let mut connection = SqlConnection::connect(settings).await?;
    let current = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() \
                   ELSE pg_current_wal_lsn() END";
    let query = format!(
        "SELECT active, wal_status, pg_wal_lsn_diff({current}, restart_lsn)::bigint \
         FROM pg_replication_slots WHERE slot_name = {}",
        quote_literal(slot)
    );
    let rows = connection.query(&query).await?;
    connection.close().await;
    Ok(rows.first().map(|row| Slot {
        active: row.get(0) == Some("t"),
        wal_status: row.get(1).unwrap_or("unknown").to_owned(),
        retained_bytes: row.get(2).and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
    }))
}

fn of_slot(name: String, slot: Option<Slot>) -> Check {
    let Some(slot) = slot else {
        let hint = "the archiver makes it again; take a backup, because WAL may be missing";
        return Check::failed(name, "the source does not have it", hint);
    };
    let held = size(slot.retained_bytes);
    match slot.wal_status.as_str() {
        "lost" | "unreserved" => {
            let hint = "raise max_slot_wal_keep_size on the source and take a backup";
            Check::failed(
                name,
                format!("the source has given up its WAL ({})", slot.wal_status),
                hint,
            )
        }
        _ if !slot.active => {
            let hint = "nobody reads it; see `zektor status` and the wal-archiver's log";
            Check::failed(name, format!("not in use; it holds back {held}"), hint)
        }
        _ if slot.retained_bytes > RETAINED_BYTES => {
            let hint = "mind the disk of the source";
            Check::warning(name, format!("it holds back {held} of WAL"), hint)
        }
        _ => Check::ok(name, format!("in use; it holds back {held}")),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use events::position::ArchiverPosition;
    use events::{BranchName, CommandId, Event, InstanceDocument, example};
    use uuid::Uuid;

    use super::{Slot, of_last_backup, of_position, of_slot, of_sweeps};
    use crate::commands::doctor::CheckState;

    #[test]
    fn an_archive_that_stands_still_or_lags_is_told() {
        let check = |streaming, lag_seconds, expected| {
            let position = ArchiverPosition {
                streaming,
                lag_seconds,
                ..ArchiverPosition::default()
            };
            assert_eq!(of_position("wal".to_owned(), &position).state, expected);
        };
        check(true, Some(1.0), CheckState::Ok);
        check(true, None, CheckState::Ok);
        check(true, Some(600.0), CheckState::Warning);
        check(false, None, CheckState::Failed);
    }

    #[test]
    fn the_last_backup_may_be_a_day_old() {
        let now = "2026-03-02T10:00:00Z".parse().unwrap();
        let check = |last: Option<&str>, expected| {
            let last = last.map(|text| text.parse().unwrap());
            let found = of_last_backup("backup".to_owned(), last, now, "zektor backup create");
            assert_eq!(found.state, expected);
        };
        check(Some("2026-03-01T09:00:00Z"), CheckState::Ok);
        check(Some("2026-03-01T07:00:00Z"), CheckState::Warning);
        check(None, CheckState::Failed);
    }

    #[test]
    fn slots() {
        let check = |active, wal_status: &str, retained_bytes, expected| {
            let slot = Slot {
                active,
                wal_status: wal_status.to_owned(),
                retained_bytes,
            };
            assert_eq!(of_slot("slot".to_owned(), Some(slot)).state, expected);
        };
        check(true, "reserved", 1, CheckState::Ok);
        check(true, "extended", 5 << 30, CheckState::Warning);
        check(false, "reserved", 1, CheckState::Failed);
        check(true, "lost", 0, CheckState::Failed);
        assert_eq!(of_slot("slot".to_owned(), None).state, CheckState::Failed);
    }

    #[test]
    fn a_deletion_that_nobody_does_is_told_after_a_day() {
        let mut document =
            InstanceDocument::new(example::instance(), CommandId(Uuid::nil()), example::at(0));
        let asked = example::events().into_iter().find_map(|event| match event {
            Event::BranchSweepRequested(asked) => Some(asked.sweep),
            _ => None,
        });
        let sweep = asked.unwrap();
        let asked_at = sweep.asked_at;
        let _none = document.sweeps.insert(BranchName::main(), sweep);
        let after = |hours| of_sweeps(&document, asked_at + TimeDelta::hours(hours));
        assert!(after(24).is_empty());
        let told = after(25);
        assert_eq!((told.len(), told[0].state), (1, CheckState::Warning));
    }
}
