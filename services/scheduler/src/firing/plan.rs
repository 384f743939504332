//! What fires next. Pure: the time is an argument.
//!
//! A heap of moments, each with the schedule that is to be looked at then. The schedules themselves stand beside it, so
//! an entry of the heap that is out of date (the schedule was changed, paused or forgotten) is recognised when it comes
//! up, and dropped.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use calendar::Calendar;
use chrono::TimeDelta;
use events::document::{Branch, Schedule};
use events::{BackupId, InstanceDocument, InstanceName, PoolName, ScheduleId, Timestamp, WalKeep};

use crate::commands::default_wal_keep;
use crate::fires::Fires;

/// A fire that is older is not caught up: whether it had an effect is no longer known, for the stream of events keeps
/// its messages for 365 days.
const CAUGHT_UP: TimeDelta = TimeDelta::days(360);

/// A fire that is due.
#[derive(Debug, Clone)]
pub(crate) struct Fire {
    pub(crate) instance: InstanceName,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) wal: WalKeep,
    pub(crate) pool: Option<PoolName>,
    pub(crate) at: Timestamp,
}

impl Fire {
    /// The backup that it is.
    pub(super) fn backup_id(&self) -> BackupId {
        BackupId::scheduled(self.schedule.id, self.at)
    }
}

/// A schedule that fires, and when it is to be looked at next.
struct Planned {
    schedule: Arc<Schedule>,
    wal: WalKeep,
    pool: Option<PoolName>,
    fires: Fires,
    next: Option<Timestamp>,
}

type Entry = Reverse<(Timestamp, InstanceName, ScheduleId)>;

/// All schedules that fire.
#[derive(Default)]
pub(crate) struct Plan {
    instances: HashMap<InstanceName, HashMap<ScheduleId, Planned>>,
    heap: BinaryHeap<Entry>,
    /// Reading an expression is dear, and many schedules have the same.
    calendars: HashMap<(String, String), Arc<Calendar>>,
}

impl Plan {
    /// Takes what is wanted of an instance now.
    pub(crate) fn put(&mut self, document: &InstanceDocument, now: Timestamp) {
        let mut before = self
            .instances
            .remove(&document.instance)
            .unwrap_or_default();
        let mut planned = HashMap::new();
        for schedule in document.schedules.iter().filter(|s| is_on(document, s)) {
            let kept = before.remove(&schedule.id);
            if let Some(next) = self.planned(document, schedule, kept, now) {
                let _none = planned.insert(schedule.id, next);
            }
        }
        if !planned.is_empty() {
            let _none = self.instances.insert(document.instance.clone(), planned);
        }
        self.compact();
    }

    fn planned(
        &mut self,
        document: &InstanceDocument,
        schedule: &Schedule,
        before: Option<Planned>,
        now: Timestamp,
    ) -> Option<Planned> {
        let default_wal = || default_wal_keep(document, &schedule.branch, Some(schedule.retention));
        let wal = schedule.wal.unwrap_or_else(default_wal);
        let pool = document.pool.clone();
        let same_times = |before: &Planned| {
            let old = &before.schedule;
            (&old.cron, &old.timezone, old.created_at)
                == (&schedule.cron, &schedule.timezone, schedule.created_at)
        };
        if let Some(before) = before.filter(same_times) {
            let schedule = if *before.schedule == *schedule {
                before.schedule
            } else {
                Arc::new(schedule.clone())
            };
            return Some(Planned {
                schedule,
                wal,
                pool,
                ..before
            });
        }
        let calendar = self.calendar(document, schedule)?;
        let fires = Fires::on(calendar, schedule.created_at);
        let caught_up = fires.due(now).filter(|due| now - *due <= CAUGHT_UP);
        let next = caught_up.or_else(|| fires.next(now));
        self.push(next, &document.instance, schedule.id);
        Some(Planned {
            schedule: Arc::new(schedule.clone()),
            wal,
            pool,
            fires,
            next,
        })
    }

    fn calendar(
        &mut self,
        document: &InstanceDocument,
        schedule: &Schedule,
    ) -> Option<Arc<Calendar>> {
        let key = (schedule.cron.clone(), schedule.timezone.clone());
        if let Some(known) = self.calendars.get(&key) {
            return Some(Arc::clone(known));
        }
        match Calendar::parse(&schedule.cron, &schedule.timezone) {
            Ok(calendar) => {
                let calendar = Arc::new(calendar);
                let _none = self.calendars.insert(key, Arc::clone(&calendar));
                Some(calendar)
            }
            Err(error) => {
                tracing::error!(
                    instance = %document.instance, schedule = schedule.name, %error,
                    "a schedule cannot be read and never fires; change it"
                );
                None
            }
        }
    }

    /// Forgets the instances that are not to be kept.
    pub(crate) fn retain(&mut self, keep: impl Fn(&InstanceName) -> bool) {
        self.instances.retain(|instance, _| keep(instance));
    }

    /// When something is to be looked at next.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Takes out what is due at `now`: of each schedule the latest fire, however many were missed. Each must be settled
    /// or put back.
    pub(crate) fn take_due(&mut self, now: Timestamp) -> Vec<Fire> {
        let mut due = Vec::new();
        while self.next_at().is_some_and(|at| at <= now) {
            let Some(Reverse((at, instance, id))) = self.heap.pop() else {
                break;
            };
            let planned = self.instances.get_mut(&instance);
            let Some(planned) = planned.and_then(|schedules| schedules.get_mut(&id)) else {
                continue;
            };
            if planned.next != Some(at) {
                continue;
            }
            planned.next = None;
            due.push(Fire {
                instance,
                schedule: Arc::clone(&planned.schedule),
                wal: planned.wal,
                pool: planned.pool.clone(),
                at: planned.fires.due(now).unwrap_or(at),
            });
        }
        due
    }

    /// The fire had its effect: the next one is looked for.
    pub(crate) fn settle(&mut self, fire: &Fire) {
        self.plan_next(fire, |fires| fires.next(fire.at));
    }

    /// The fire is to be tried again.
    pub(crate) fn put_back(&mut self, fire: &Fire) {
        self.plan_next(fire, |_| Some(fire.at));
    }

    fn plan_next(&mut self, fire: &Fire, next: impl Fn(&Fires) -> Option<Timestamp>) {
        let schedules = self.instances.get_mut(&fire.instance);
        let planned = schedules.and_then(|schedules| schedules.get_mut(&fire.schedule.id));
        if let Some(planned) = planned {
            planned.next = next(&planned.fires);
            let next = planned.next;
            self.push(next, &fire.instance, fire.schedule.id);
        }
    }

    /// The clock was set back to `now`: what lies ahead is computed anew. What is waiting to be tried again stays.
    pub(crate) fn rewind(&mut self, now: Timestamp) {
        for planned in self.instances.values_mut().flat_map(HashMap::values_mut) {
            if planned.next.is_none_or(|next| next > now) {
                planned.next = planned.fires.next(now);
            }
        }
        self.rebuild();
    }

    fn push(&mut self, at: Option<Timestamp>, instance: &InstanceName, id: ScheduleId) {
        if let Some(at) = at {
            self.heap.push(Reverse((at, instance.clone(), id)));
        }
    }

    /// Keeps what is out of date from filling the heap.
    fn compact(&mut self) {
        let instances = self.instances.len();
        if self.heap.len() > 16 * instances + 1024 {
            self.rebuild();
        }
        if self.calendars.len() > 8 * instances + 1024 {
            self.calendars
                .retain(|_, calendar| Arc::strong_count(calendar) > 1);
        }
    }

    fn rebuild(&mut self) {
        let entries = self.instances.iter().flat_map(|(instance, schedules)| {
            let entry = |(id, planned): (&ScheduleId, &Planned)| {
                Some(Reverse((planned.next?, instance.clone(), *id)))
            };
            schedules.iter().filter_map(entry)
        });
        self.heap = entries.collect();
    }
}

/// Whether a schedule fires: it is not paused, and its branch is there to be backed up.
fn is_on(document: &InstanceDocument, schedule: &Schedule) -> bool {
    let branch = document.branches.get(&schedule.branch);
    !document.removing && !schedule.paused && branch.and_then(Branch::active).is_some()
}
