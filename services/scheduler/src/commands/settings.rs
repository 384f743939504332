//! What is wanted of an instance beyond its schedules: the workers that serve it, where its server is, and its drills.

use std::collections::BTreeSet;

use events::command::InstanceUpdate;
use events::document::{Branch, DrillSettings};
use events::event::{InstanceUpdated, RefusalCode};
use events::{BranchName, Event, InstanceDocument, MessageId, PoolName, Timestamp, subject};

use super::once::{Told, contended};
use super::schedules::read_calendar;
use super::{Given, World, moved, names};
use crate::refusal::{Refusal, Unfinished};

/// Checks of one instance's drills.
const MOST_CHECKS: usize = 20;
/// Of one check's SQL, in bytes: it rests in the instance document.
const LONGEST_SQL: usize = 4096;

impl World {
    pub(super) async fn update_instance(
        &self,
        given: &Given,
        update: &InstanceUpdate,
    ) -> Result<(), Unfinished> {
        let instance = &update.instance;
        let main = BranchName::main();
        let told = format!("{}.instance.*.{instance}.{main}", subject::ROOT);
        let last = self.last_told(&told).await?;
        if self.has_told(given, told.clone()).await? {
            return Ok(());
        }
        let now = self.clock.now();
        // What is refused anyway is asked of no server.
        let _wanted = changed(self.document(instance).await?, update, now)?;
        self.look_at_moved(update).await?;
        let warnings = match &update.drills {
            Some(wanted) => self.try_checks(instance, wanted).await?,
            None => Vec::new(),
        };
        let change = |document| changed(document, update, now);
        let of = (instance, Told::Caused(&told));
        let Some(document) = self.change_once(given, of, change).await? else {
            return Ok(());
        };
        self.mirror(instance).await?;
        // Before it is told: a command that is broken off here is delivered again.
        self.move_requests(instance).await?;
        let event = Event::InstanceUpdated(InstanceUpdated {
            instance: instance.clone(),
            branch: main,
            pool: document.pool,
            drills: document.drills,
            warnings,
        });
        let id = MessageId::new(format!("instance.updated:{}", given.id));
        let outgoing = self.outgoing(given, id, None, event);
        match self.tell_after(outgoing, (&told, last)).await? {
            true => Ok(()),
            false => Err(contended(instance)),
        }
    }
}

fn changed(
    mut document: InstanceDocument,
    update: &InstanceUpdate,
    now: Timestamp,
) -> Result<InstanceDocument, Refusal> {
    if document.removing {
        return Err(Refusal::no_such_instance(&document.instance));
    }
    if let Some(pool) = &update.pool {
        document.pool = Some(pool.clone()).filter(|pool| pool.as_str() != PoolName::DEFAULT);
    }
    moved::move_main(&mut document, update)?;
    match (&update.drills, update.no_drills) {
        (Some(_), true) => {
            return Err(invalid(
                "drills are wanted and not wanted at the same time",
                "Give either the settings of drills, or none at all.",
            ));
        }
        (None, true) => document.drills = None,
        (Some(wanted), false) => document.drills = Some(drills(&document, wanted, now)?),
        (None, false) => {}
    }
    Ok(document)
}

/// The settings in their normal form. What would have been due by a new expression is not caught up.
fn drills(
    document: &InstanceDocument,
    wanted: &DrillSettings,
    now: Timestamp,
) -> Result<DrillSettings, Refusal> {
    let branch = document.branches.get(&wanted.branch);
    if branch.and_then(Branch::active).is_none() {
        return Err(Refusal::no_such_branch(&document.instance, &wanted.branch));
    }
    let mut drills = wanted.clone();
    // The zone is checked also where no expression needs it yet.
    let cron = wanted.cron.as_deref();
    let calendar = read_calendar(cron.unwrap_or("0 0 * * *"), &wanted.timezone)?;
    drills.cron = cron.map(|_| calendar.expression().to_string());
    calendar.zone().name().clone_into(&mut drills.timezone);
    check(&mut drills)?;
    let fires = |settings: &DrillSettings| (settings.cron.clone(), settings.timezone.clone());
    let before = document.drills.as_ref();
    drills.created_at = match before {
        Some(before) if fires(before) == fires(&drills) => before.created_at,
        _ => now,
    };
    Ok(drills)
}

fn check(drills: &mut DrillSettings) -> Result<(), Refusal> {
    if drills.checks.len() > MOST_CHECKS {
        return Err(invalid(
            format!("more than {MOST_CHECKS} checks are too many for a drill"),
            "Join some of them: one SELECT may return many rows.",
        ));
    }
    let mut known = BTreeSet::new();
    for check in &mut drills.checks {
        let name = names::given(Some(&check.name), "name of a check")?;
        let Some(name) = name.filter(|name| known.insert(name.clone())) else {
            return Err(invalid(
                format!("a check of the drill is named {:?}", check.name),
                "Give each check a name of its own.",
            ));
        };
        let sql = check.sql.trim();
        if sql.is_empty() || sql.len() > LONGEST_SQL || sql.contains('\0') {
            return Err(invalid(
                format!("the check {name:?} has no SQL that could be asked"),
                format!("Give it one SELECT of at most {LONGEST_SQL} bytes."),
            ));
        }
        if !asks(sql) {
            return Err(invalid(
                format!("the check {name:?} is no statement that only asks, and could never hold"),
                "Begin it with SELECT, WITH, VALUES or TABLE.",
            ));
        }
        check.sql = sql.to_owned();
        check.name = name;
    }
    Ok(())
}

/// Whether a statement begins as one that has rows to look at. That it changes nothing is up to its transaction.
fn asks(sql: &str) -> bool {
    let begin = sql.trim_start_matches(|c: char| c == '(' || c.is_whitespace());
    let first = begin.split(|c: char| !c.is_ascii_alphabetic()).next();
    let first = first.unwrap_or_default().to_ascii_uppercase();
    ["SELECT", "WITH", "VALUES", "TABLE"].contains(&first.as_str())
}

fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Invalid, message, hint)
}
