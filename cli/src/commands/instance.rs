//! `zektor instance add|list|show|update|remove`.

mod moved;

use std::io::Read as _;

use events::event::InstanceRegistered;
use events::query::{self, BranchView, InstanceDetail, InstanceView, ScheduleView};
use events::{ArchiveMode, BranchName, Command, Event, InstanceName, command};
use pg_format::ServerVersion;
use pg_replication::ConnectionSettings;
use serde_json::json;
use service::seal::dsn_context;

use super::backup::PAGE;
use super::pool::{self, Served};
use super::wal::{position, standstill};
use super::{branch, schedule};
use crate::arguments::{ArchiveBy, InstanceAdd, InstanceUpdate, OfInstance};
use crate::failure::{Failure, word};
use crate::outcome::{ACCEPTED_WITHIN, DONE_WITHIN, unless_interrupted};
use crate::output::{Reply, moment, note, or_dash, pairs, size, span, table};
use crate::progress::Progress;
use crate::session::{Session, Setting};

/// The longest text on stdin that is taken for a connection URI.
const LONGEST_DSN: u64 = 64 * 1024;

/// Registers a database: the scheduler looks at it, reserves its WAL and makes the default schedule.
pub(crate) async fn add(setting: &Setting, add: &InstanceAdd) -> Result<Reply, Failure> {
    let dsn = read_dsn(&add.dsn)?;
    let session = setting.connect().await?;
    let context = BranchName::main();
    let context = dsn_context(&add.name, &context);
    let sealed = session.master_key()?.seal(&dsn, &context)?;
    let command = Command::InstanceAdd(command::InstanceAdd {
        instance: add.name.clone(),
        dsn: sealed,
        default_schedule: !add.no_default_schedule,
        archive_mode: add.archive_mode.into(),
        disk_risk: add.on_disk_risk.into(),
    });
    let progress = Progress::start("the scheduler looks at the database");
    let mut sent = session.send(command, &["instance"]).await?;
    let registered = sent.until(DONE_WITHIN, |event| match event {
        Event::InstanceRegistered(registered) => Some(registered),
        _ => None,
    });
    let how = format!("zektor instance show {}", add.name);
    let registered = unless_interrupted(registered, "the registration", &how).await?;
    drop(progress);
    session.projected(sent.seen).await;
    registered_reply(&session, &registered, add.archive_mode).await
}

/// The URI as it was given or from stdin, checked here: what cannot be parsed is never sent.
fn read_dsn(given: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let dsn = match given {
        "-" => {
            let read = std::io::stdin().take(LONGEST_DSN).read_to_string(&mut text);
            let _ = read.map_err(|error| Failure::local("stdin cannot be read", &error))?;
            text.trim()
        }
        given => given,
    };
    let settings = ConnectionSettings::parse(dsn).map_err(|error| {
        Failure::usage(
            format!(
                "the connection uri cannot be used: {}",
                service::run::chain(&error)
            ),
            "write it like postgres://user:password@host:5432/database",
        )
    })?;
    Ok(settings.to_uri())
}

async fn registered_reply(
    session: &Session,
    registered: &InstanceRegistered,
    archive_by: ArchiveBy,
) -> Result<Reply, Failure> {
    let name = &registered.instance;
    // It is registered; when its schedules fire is only good to know.
    let schedules = match schedule::of_instance(session, name).await {
        Ok(answer) => answer.schedules,
        Err(failure) => {
            note(&format!(
                "the scheduler does not say when it fires: {failure}"
            ));
            Vec::new()
        }
    };
    let next_at = schedules
        .iter()
        .filter_map(|schedule| schedule.next_at)
        .min();
    let main = &registered.main;
    let document = json!({
        "name": name,
        "status": "registered",
        "branch": registered.branch,
        "system_identifier": main.system_identifier,
        "server_version": main.server_version,
        "timeline": main.timeline,
        "wal_segment_size": main.wal_segment_size,
        "created_at": registered.created_at,
        "archive_mode": ArchiveMode::from(archive_by),
        "schedules": schedules,
        "next_backup_at": next_at,
    });
    let planned = registered.schedules.first().map(|first| {
        format!(
            "{} ({} {}), kept {}",
            first.name, first.cron, first.timezone, first.retention
        )
    });
    let archived = match archive_by {
        ArchiveBy::Stream => "its WAL is being archived",
        ArchiveBy::Command => "its WAL is archived as soon as the server pushes it",
    };
    let mut text = format!("{name} is registered; {archived}.\n\n");
    text.push_str(&pairs(&[
        ("postgresql", Some(version(main.server_version))),
        ("system id", Some(main.system_identifier.to_string())),
        (
            "schedule",
            Some(planned.unwrap_or_else(|| "none".to_owned())),
        ),
        ("next backup", next_at.map(moment)),
    ]));
    if archive_by == ArchiveBy::Command {
        text.push_str(&format!(
            "\nNo slot was made. Let the server push its WAL: archive_mode = on, archive_timeout = 60 and\n  \
             archive_command = 'zektor wal push %p --instance {name}'\n(docs/archive-command.md)\n",
        ));
    }
    text.push_str(&format!(
        "\nThere is no backup yet, so nothing can be restored. Take one now:\n  zektor backup create {name} --wait"
    ));
    Reply::new(&document, text)
}

/// `18.1`, as people say it.
pub(crate) fn version(number: u32) -> String {
    ServerVersion(number).to_string()
}

/// Lists the instances.
pub(crate) async fn list(session: &Session) -> Result<Reply, Failure> {
    let mut instances = Vec::new();
    let mut question = query::InstanceList {
        limit: Some(PAGE),
        after: None,
    };
    loop {
        let found = session.ask(&question).await?;
        instances.extend(found.instances);
        question.after = found.next;
        if question.after.is_none() {
            break;
        }
    }
    let next = None;
    let answer = query::Instances { instances, next };
    let text = match answer.instances.is_empty() {
        true => {
            "No database is protected yet: zektor instance add NAME --dsn postgres://...".to_owned()
        }
        false => list_text(&answer.instances),
    };
    Reply::new(&answer, text)
}

fn list_text(instances: &[InstanceView]) -> String {
    let rows = instances.iter().map(|instance| {
        vec![
            instance.name.to_string(),
            instance.branches.to_string(),
            instance.backups.to_string(),
            size(instance.stored_bytes),
            or_dash(instance.last_backup_at.map(moment)),
            moment(instance.created_at),
        ]
    });
    let header = [
        "name",
        "branches",
        "backups",
        "stored",
        "last backup",
        "registered",
    ];
    table(&header, rows.collect())
}

/// Shows one instance.
pub(crate) async fn show(session: &Session, of: OfInstance) -> Result<Reply, Failure> {
    let question = query::InstanceShow {
        instance: of.instance,
    };
    let detail = session.ask_patiently(&question).await?;
    let mut text = show_text(&detail);
    // Only what is heard of it now tells that its server is down.
    let main = BranchName::main();
    let live = position(session, &detail.instance.name, &main).await;
    if let Ok(live) = live
        && let Some(standstill) = standstill(live.as_ref(), None, session.setting.clock.now())
    {
        text.push_str(&format!("\n{standstill}\n"));
    }
    Reply::new(&detail, text)
}

fn show_text(detail: &InstanceDetail) -> String {
    let InstanceDetail {
        instance,
        branch_list,
        schedules,
    } = detail;
    let mut text = pairs(&[
        ("name", Some(instance.name.to_string())),
        ("registered", Some(moment(instance.created_at))),
        ("backups", Some(instance.backups.to_string())),
        ("stored", Some(size(instance.stored_bytes))),
        (
            "last backup",
            Some(or_dash(instance.last_backup_at.map(moment))),
        ),
        (
            "pool",
            Some(pool::called(instance.pool.as_ref()).to_owned()),
        ),
        ("proven", Some(proven(instance))),
        (
            "alerts",
            (instance.alerts > 0).then(|| {
                format!(
                    "{}; see `zektor alert list {}`",
                    instance.alerts, instance.name
                )
            }),
        ),
    ]);
    text.push('\n');
    text.push_str(&branches_text(branch_list));
    if !schedules.is_empty() {
        text.push('\n');
        text.push_str(&schedules_text(schedules));
    }
    text
}

/// What the last drill that came out well has shown.
fn proven(instance: &InstanceView) -> String {
    let Some(at) = instance.proven_at else {
        return format!(
            "never; rehearse a restore with `zektor drill run {}`",
            instance.name
        );
    };
    let target = instance.proven_target.map(moment);
    let target = target.map(|target| format!(", to {target}"));
    let took = instance.proven_in_ms.map(std::time::Duration::from_millis);
    let took = took.map(|took| format!(", in {}", span(took)));
    format!(
        "restorable at {}{}{}",
        moment(at),
        target.unwrap_or_default(),
        took.unwrap_or_default()
    )
}

fn branches_text(branches: &[BranchView]) -> String {
    branch::text(branches)
}

fn schedules_text(schedules: &[ScheduleView]) -> String {
    let rows = schedules.iter().map(|schedule| {
        vec![
            schedule.name.clone(),
            schedule.cron.clone(),
            schedule.timezone.clone(),
            schedule.retention.to_string(),
            schedule.branch.to_string(),
            match schedule.paused {
                true => "paused".to_owned(),
                false => or_dash(schedule.last_at.map(moment)),
            },
        ]
    });
    let header = [
        "schedule",
        "cron",
        "timezone",
        "retention",
        "branch",
        "last",
    ];
    table(&header, rows.collect())
}

/// Changes what is wanted of an instance.
pub(crate) async fn update(session: &Session, update: InstanceUpdate) -> Result<Reply, Failure> {
    let instance = update.instance;
    let moving = match &update.dsn {
        Some(given) => Some(moved::moving(session, &instance, &read_dsn(given)?).await?),
        None => None,
    };
    let command = Command::InstanceUpdate(command::InstanceUpdate {
        instance: instance.clone(),
        pool: update.pool.clone(),
        dsn: moving.as_ref().map(|moving| moving.dsn.clone()),
        drills: None,
        no_drills: false,
    });
    // Where it is to be is looked at first.
    let (progress, within) = match &moving {
        Some(_) => (
            Some(Progress::start("the scheduler looks at the database")),
            DONE_WITHIN,
        ),
        None => (None, ACCEPTED_WITHIN),
    };
    let mut sent = session.send(command, &["instance"]).await?;
    let updated = sent.until(within, |event| match event {
        Event::InstanceUpdated(updated) => Some(updated),
        _ => None,
    });
    let how = format!("zektor instance show {instance}");
    let updated = unless_interrupted(updated, "the command", &how).await?;
    drop(progress);
    session.projected(sent.seen).await;
    let mut document = json!({
        "name": instance,
        "pool": updated.pool,
        "drills": updated.drills,
    });
    let mut text = String::new();
    if let Some(moving) = &moving {
        text.push_str(&moving.text(&instance));
        if let Some(warning) = moving.warning(&instance) {
            note(&format!("warning: {warning}"));
        }
        document["moved"] = true.into();
    }
    if update.pool.is_some() {
        let served = pool::served(session, updated.pool.as_ref()).await;
        let nobody = served == Some(Served::Nobody);
        if nobody {
            let unserved = pool::unserved(updated.pool.as_ref());
            note(&format!(
                "warning: {unserved}; until then no backup of {instance} is taken"
            ));
        }
        document["pool_served"] = json!(served.map(|_| !nobody));
        text.push_str(&format!(
            "The backups of {instance} are taken by the workers of the pool {} from now on; one that waits for a worker \
             goes with it.\n",
            pool::called(updated.pool.as_ref())
        ));
    }
    Reply::new(&document, text)
}

/// Ends the protection; what is stored stays.
pub(crate) async fn remove(session: &Session, of: OfInstance) -> Result<Reply, Failure> {
    let OfInstance { instance } = of;
    let command = Command::InstanceRemove(command::InstanceRemove {
        instance: instance.clone(),
    });
    let progress = Progress::start("the scheduler takes the instance out");
    let mut sent = session.send(command, &["instance"]).await?;
    let removed = sent.until(DONE_WITHIN, |event| match event {
        Event::InstanceRemoved(removed) => Some(removed.slot_left),
        _ => None,
    });
    let slot_left = unless_interrupted(removed, "the removal", "zektor instance list").await?;
    if let Some(slot) = &slot_left {
        note(&format!(
            "warning: the slot {slot} could not be dropped and holds WAL on the server until its disk is full; run \
             there: SELECT pg_drop_replication_slot('{slot}')"
        ));
    }
    drop(progress);
    session.projected(sent.seen).await;
    removed_reply(&instance, slot_left)
}

fn removed_reply(instance: &InstanceName, slot_left: Option<String>) -> Result<Reply, Failure> {
    let document = json!({ "name": instance, "status": word("removed"), "slot_left": slot_left });
    let text =
        format!("{instance} is no longer protected; what is stored stays in the repository.");
    Reply::new(&document, text)
}

#[cfg(test)]
mod tests {
    use events::query::InstanceView;

    use super::{list_text, read_dsn};
    use crate::failure::Ending;

    #[test]
    fn the_list() {
        let instance = InstanceView {
            name: "orders".parse().unwrap(),
            created_at: "2026-03-01T10:00:00Z".parse().unwrap(),
            branches: 2,
            backups: 3,
            stored_bytes: 5_368_709_120,
            last_backup_at: None,
            pool: None,
            proven_at: None,
            proven_target: None,
            proven_in_ms: None,
            alerts: 0,
        };
        insta::assert_snapshot!(list_text(&[instance]), @r#"
        NAME    BRANCHES  BACKUPS  STORED   LAST BACKUP  REGISTERED
        orders  2         3        5.0 GiB  -            2026-03-01 10:00:00 UTC
        "#);
    }

    #[test]
    fn a_dsn_that_cannot_be_used_is_refused_before_it_is_sent() {
        assert!(read_dsn("postgres://u:p@127.0.0.1:5432/postgres").is_ok());
        for text in [
            "",
            "orders",
            "mysql://u@h/",
            "postgres://u:s3cret@h/?nonsense=1",
        ] {
            let failure = read_dsn(text).unwrap_err();
            assert_eq!(failure.ending, Ending::Usage);
            assert!(!failure.message.contains("s3cret"), "{failure}");
        }
    }
}
