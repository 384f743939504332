//! Answers "what stays, what goes, when, why, and what does it cost?": with the planner and the inputs of the rounds.

use bus::{BusError, QueryError};
use events::retention_plan::{
    BackupRetention, BranchRetention, Fate, LeftoverRetention, RetentionAnswer, RetentionClass,
    RetentionQuestion, WalRetention,
};
use events::{BackupId, BranchName, InstanceName, Timestamp, subject};
use retention::{
    Class, Decision, LeftoverFate, LeftoverVerdict, Needs, Plan, Purpose, Reason, Stored, Verdict,
    WalFate, WalVerdict,
};
use tokio_util::sync::CancellationToken;

use super::stored::{self, Found, Life, life};
use crate::commands::World;
use crate::refusal::Unfinished;

const ALREADY: &str = "a sweep deletes it at this moment";

/// Serves the question until shutdown.
pub(super) async fn serve(world: &World, shutdown: CancellationToken) -> Result<(), BusError> {
    let answering = world.clone();
    world
        .bus
        .serve(
            &subject::scheduler_retention(),
            "scheduler",
            move |_subject, question: RetentionQuestion| {
                let world = answering.clone();
                async move { answer(&world, question).await }
            },
            shutdown,
        )
        .await
}

pub(crate) async fn answer(
    world: &World,
    question: RetentionQuestion,
) -> Result<RetentionAnswer, QueryError> {
    let now = world.clock.now();
    let at = question.at.unwrap_or(now);
    if at < now && question.at.is_some() {
        return Err(QueryError::new(
            "invalid",
            "retention can be told of now and of later; what was before is in the events",
            "See `zektor events`.",
        ));
    }
    let unavailable = |error: Unfinished| {
        QueryError::new("unavailable", error.to_string(), "Try again in a moment.")
    };
    let instance = question.instance;
    let branches = branches(world, &instance).await.map_err(unavailable)?;
    let Some(branches) = branches else {
        return Err(QueryError::new(
            "not_found",
            format!(
                "there is no instance {instance}; of one that was removed nothing is deleted while it is not registered"
            ),
            "See `zektor instance list`.",
        ));
    };
    let mut told = Vec::new();
    for branch in branches {
        let found = stored::find(world, (&instance, &branch), None).await;
        if let Some(found) = found.map_err(unavailable)? {
            told.push(tell(branch, &found, question.at));
        }
    }
    // Those that are gone after those that are there; each by name.
    told.sort_by_key(|one: &BranchRetention| !one.live);
    Ok(RetentionAnswer {
        instance,
        at,
        branches: told,
    })
}

/// What is stored of an instance, if there is such an instance.
async fn branches(
    world: &World,
    instance: &InstanceName,
) -> Result<Option<Vec<BranchName>>, Unfinished> {
    if world.bus.instances().get(instance).await?.is_none() {
        return Ok(None);
    }
    let branches = world.repository.list_branches_of(instance).await?;
    Ok(Some(branches))
}

fn tell(branch: BranchName, found: &Found, at: Option<Timestamp>) -> BranchRetention {
    let stored = match at {
        Some(at) => retention::project(&found.stored, at),
        None => found.stored.clone(),
    };
    let plan = retention::plan(&stored);
    let sweep = found.document.sweeps.get(&branch);
    // What was withdrawn is deleted no further.
    let sweep = sweep.filter(|sweep| sweep.withdrawn_at.is_none());
    let going = match at.is_some_and(|at| at > found.stored.now) {
        true => Fate::Gone,
        false => Fate::Delete,
    };
    let mut backups: Vec<_> = plan
        .backups
        .iter()
        .map(|verdict| backup(verdict, &stored, going))
        .collect();
    let mut wal: Vec<_> = plan
        .wal
        .iter()
        .map(|verdict| stretch(verdict, going))
        .collect();
    let mut leftovers: Vec<_> = plan
        .leftovers
        .iter()
        .map(|one| left_over(one, going))
        .collect();
    let mut postponed = postponed(&plan, found, &branch);
    if let Some(sweep) = sweep {
        for backup in &mut backups {
            if sweep.purge || sweep.backups.contains(&backup.id) {
                (backup.fate, backup.until) = (going, None);
                backup.reasons = vec![ALREADY.to_owned()];
            }
        }
        for one in &mut wal {
            let swept = |stretch: &events::document::WalStretch| {
                stretch.timeline == one.timeline
                    && (stretch.from_lsn..stretch.to_lsn).contains(&one.from_lsn)
            };
            if sweep.purge || sweep.wal.iter().any(swept) {
                (one.fate, one.until) = (going, None);
                ALREADY.clone_into(&mut one.reason);
            }
        }
        for one in &mut leftovers {
            if sweep.purge || sweep.leftovers.contains(&one.id) {
                (one.fate, one.until) = (going, None);
                ALREADY.clone_into(&mut one.reason);
            }
        }
        let since = events::envelope::rfc3339(sweep.asked_at);
        let more = format!(
            "what a sweep took since {since} is being deleted; the next one waits for its end"
        );
        postponed = Some(postponed.map_or(more.clone(), |text| format!("{text}; {more}")));
    }
    let purged = sweep.is_some_and(|sweep| sweep.purge);
    let (kept_bytes, going_bytes) = match (bytes(&plan), purged) {
        ((kept, going), true) => (0, kept + going),
        (both, false) => both,
    };
    BranchRetention {
        live: life(&found.document, &branch) == Life::Live,
        branch,
        earliest: plan.earliest.map(|earliest| earliest.at),
        backups,
        wal,
        leftovers,
        kept_bytes,
        going_bytes,
        postponed,
    }
}

/// What stays, and what goes now or has a day on which it does.
fn bytes(plan: &Plan) -> (u64, u64) {
    let total = plan.totals;
    let all = total.backup_bytes_kept
        + total.backup_bytes_going
        + total.wal_bytes_kept
        + total.wal_bytes_going;
    let backups = plan.backups.iter();
    let marked = backups
        .filter(|one| matches!(one.decision, Decision::Mark { .. } | Decision::Grace { .. }));
    let marked: u64 = marked.map(|one| one.stored_bytes + one.wal_bytes).sum();
    let leftovers = plan.leftovers.iter();
    let over = leftovers.filter(|one| matches!(one.fate, LeftoverFate::Wait { .. }));
    let over: u64 = over.map(|one| one.leftover.stored_bytes).sum();
    let going = total.backup_bytes_going + total.wal_bytes_going + marked + over;
    (all.saturating_sub(going), going)
}

fn postponed(plan: &Plan, found: &Found, branch: &BranchName) -> Option<String> {
    let mut why: Vec<String> = plan.in_the_way.iter().map(Reason::to_string).collect();
    if life(&found.document, branch) == Life::Between {
        why.push("the branch is being made or removed".to_owned());
    }
    if found.document.removing {
        why.push("the instance is being removed; nothing of it is deleted any more".to_owned());
    }
    (!why.is_empty()).then(|| why.join("; "))
}

fn backup(verdict: &Verdict, stored: &Stored, going: Fate) -> BackupRetention {
    let (class, wal_until) = match verdict.class {
        Class::Pitr { until } => (RetentionClass::Pitr, until),
        Class::Standalone => {
            let given = stored
                .backups
                .iter()
                .find(|one| one.id == verdict.backup_id);
            (
                RetentionClass::Standalone,
                given.and_then(|one| one.wal_until),
            )
        }
    };
    let texts = |reasons: &[Reason]| reasons.iter().map(Reason::to_string).collect::<Vec<_>>();
    let time = |time: Timestamp| events::envelope::rfc3339(time);
    let (fate, mut reasons, until) = match &verdict.decision {
        Decision::Keep { reasons, until } => (Fate::Keep, texts(reasons), *until),
        Decision::Mark {
            expired_at,
            delete_after,
        } => {
            let text = format!(
                "its retention ended at {}; the next round marks it, and it goes after the time of grace",
                time(*expired_at)
            );
            (Fate::Grace, vec![text], Some(*delete_after))
        }
        Decision::Grace { until } => {
            let text = format!(
                "it is marked and can be kept after all until {}: `zektor backup undelete`",
                time(*until)
            );
            (Fate::Grace, vec![text], Some(*until))
        }
        Decision::Delete => {
            let text = match going {
                Fate::Gone => "its time of grace is over by then",
                _ => "its time of grace is over; the next round deletes it",
            };
            (going, vec![text.to_owned()], None)
        }
        Decision::Postponed { why, not_before } => (Fate::Postponed, texts(why), Some(*not_before)),
    };
    if !verdict.whole {
        reasons.push(
            "the wal that makes it consistent is not all archived: it cannot be restored"
                .to_owned(),
        );
    }
    let mut given = stored.backups.iter();
    if given.any(|one| one.id == verdict.backup_id && one.damaged) {
        reasons.push("it was found damaged: the branch does not rely on it".to_owned());
    }
    BackupRetention {
        id: verdict.backup_id,
        name: verdict.name.clone(),
        backed_up_at: verdict.backed_up_at,
        class,
        fate,
        reasons,
        until,
        wal_until,
        size_bytes: verdict.stored_bytes,
        wal_bytes: verdict.wal_bytes,
    }
}

fn left_over(verdict: &LeftoverVerdict, going: Fate) -> LeftoverRetention {
    let failed = "left over from a backup that failed or was let go";
    let (fate, reason, until) = match &verdict.fate {
        LeftoverFate::Wait { until } => (Fate::Grace, failed.to_owned(), Some(*until)),
        LeftoverFate::Delete => (going, failed.to_owned(), None),
        LeftoverFate::Postponed { why } => {
            let why: Vec<String> = why.iter().map(Reason::to_string).collect();
            (
                Fate::Postponed,
                format!("{failed}; {}", why.join("; ")),
                None,
            )
        }
        LeftoverFate::UnderWay => {
            let text = "stored by a backup that is being taken";
            (Fate::Keep, text.to_owned(), None)
        }
        LeftoverFate::Stays => {
            let text = "the backup was completed, or nobody knows any more how it ended, and its manifest is missing: bring \
                        that back, or delete the objects";
            (Fate::Keep, text.to_owned(), None)
        }
    };
    LeftoverRetention {
        id: verdict.leftover.backup_id,
        bytes: verdict.leftover.stored_bytes,
        last_written: verdict.leftover.last_written,
        fate,
        reason,
        until,
    }
}

fn stretch(verdict: &WalVerdict, going: Fate) -> WalRetention {
    let (fate, reason, until) = match &verdict.fate {
        WalFate::Keep(needs) => (Fate::Keep, needed(needs), needs.until()),
        WalFate::Prune => (going, "no backup that stays needs it".to_owned(), None),
        WalFate::Postponed { why } => {
            let why: Vec<String> = why.iter().map(Reason::to_string).collect();
            (Fate::Postponed, why.join("; "), None)
        }
    };
    let needed_by: Vec<BackupId> = match &verdict.fate {
        WalFate::Keep(needs) => needs.longest.iter().map(|need| need.backup_id).collect(),
        WalFate::Prune | WalFate::Postponed { .. } => Vec::new(),
    };
    WalRetention {
        timeline: verdict.timeline,
        first_segment: verdict.first.to_string(),
        last_segment: verdict.last.to_string(),
        from_lsn: verdict.from_lsn,
        to_lsn: verdict.to_lsn,
        segments: verdict.segments,
        bytes: verdict.stored_bytes,
        fate,
        reason,
        needed_by,
        until,
    }
}

fn needed(needs: &Needs) -> String {
    let purpose = needs.longest.first().map(|need| need.purpose);
    let what = match purpose {
        Some(Purpose::Consistency) => "without it a backup cannot be restored at all",
        Some(Purpose::Onward) => "moments after a backup are restored with it",
        Some(Purpose::Running) => "a backup that is being taken began before it",
        None => "it is needed",
    };
    match needs.count {
        0 | 1 => what.to_owned(),
        count => format!("{what}; {count} backups need it"),
    }
}
