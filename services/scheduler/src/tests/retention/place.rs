//! A branch with a backup and ten segments of WAL a day, and a worker that the test plays.

use std::sync::Arc;

use bus::{Decision, Delivery, Handler, Outgoing, Progress, Sequence};
use bytes::Bytes;
use chrono::TimeDelta;
use events::event::{BranchDeleted, BranchSweepRequested, BranchSwept};
use events::mark::BackupMark;
use events::retention_plan::{BranchRetention, RetentionQuestion};
use events::{
    BackupId, BackupSummary, BranchName, Envelope, Event, InstanceDocument, MessageId, SweepId,
    Timestamp, example,
};
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineId, WalSegmentSize};
use repository::{BackupOptions, BranchRecord, BranchWriter, PutMark, WalPosition};
use uuid::Uuid;

use super::super::{Place, firing, instance};
use crate::outcomes::Outcomes;
use crate::retention::Rounds;

const BEGIN: &str = "2026-01-01T00:00:00Z";
const MIB: u64 = 1 << 20;

pub(super) fn size() -> WalSegmentSize {
    WalSegmentSize::new(MIB).unwrap()
}

pub(super) fn id(number: u64) -> BackupId {
    BackupId(Uuid::from_u128(u128::from(number)))
}

pub(super) fn main() -> BranchName {
    BranchName::main()
}

pub(super) fn day(number: i64) -> Timestamp {
    BEGIN.parse::<Timestamp>().unwrap() + TimeDelta::days(number)
}

pub(super) fn protected() -> InstanceDocument {
    InstanceDocument {
        schedules: Vec::new(),
        ..firing::document(day(0))
    }
}

impl Place {
    pub(super) async fn retained() -> (Self, Rounds) {
        let place = Place::new(BEGIN);
        place.want(|document| *document = protected()).await;
        let rounds = place.rounds();
        let record = BranchRecord {
            instance: instance(),
            branch: main(),
            system_identifier: SystemIdentifier(7),
            server_version: 180_000,
            wal_segment_size: size(),
            parent: None,
            created_at: day(0),
        };
        let _ = place.branch().claim_branch(&record).await.unwrap();
        place.world.recover_slots().await.unwrap();
        (place, rounds)
    }

    pub(super) fn rounds(&self) -> Rounds {
        Rounds {
            world: self.world.clone(),
            memory: Arc::default(),
        }
    }

    pub(super) fn branch(&self) -> BranchWriter {
        self.world.repository.writer(&instance(), &main())
    }

    pub(super) async fn want(&self, change: impl Fn(&mut InstanceDocument)) {
        let (instances, instance) = (self.world.bus.instances(), instance());
        let changed = instances.update(&instance, |document| {
            let mut document = document.cloned().unwrap_or_else(protected);
            change(&mut document);
            Decision::Put(Box::new(document), ())
        });
        changed.await.unwrap();
    }

    pub(super) async fn document(&self) -> InstanceDocument {
        let found = self.world.bus.instances().get(&instance()).await.unwrap();
        found.unwrap().0
    }

    /// On each day, from `first` to `last`, a backup in the middle of segment 10 times the day, and ten segments.
    pub(super) async fn days(&self, first: u64, last: u64, kept: Option<i64>, wal: Option<i64>) {
        let branch = self.branch();
        for number in first..=last {
            let at = day(i64::try_from(number).unwrap());
            for segment in number * 10..number * 10 + 10 {
                let name = SegmentName::new(TimelineId(1), segment, size());
                let raw = Bytes::from(vec![0; usize::try_from(MIB).unwrap()]);
                let _ = branch.put_segment(name, raw).await.unwrap();
            }
            let stored = branch.begin_backup(id(number), "a", BackupOptions::default());
            let stored = stored.unwrap().finish().await.unwrap();
            let start = Lsn(number * 10 * MIB + MIB / 2);
            let summary = BackupSummary {
                backup_id: id(number),
                instance: instance(),
                branch: main(),
                requested_at: at,
                backed_up_at: at,
                expires_at: kept.map(|days| at + TimeDelta::days(days)),
                wal_until: wal.map(|days| at + TimeDelta::days(days)),
                start_lsn: start,
                stop_lsn: Lsn(start.0 + 1000),
                timeline: TimelineId(1),
                wal_segment_size: size(),
                logical_bytes: 0,
                stored_bytes: stored.totals.stored_bytes,
                files: 0,
                attempt: "a".to_owned(),
                damaged_pages: Vec::new(),
                ..example::backup_summary()
            };
            let _ = stored.commit(summary).await.unwrap();
            let end = (number * 10 + 10) * MIB;
            let position = WalPosition {
                timeline: TimelineId(1),
                lsn: Lsn(end),
                proven_at: at,
                first_segment: SegmentName::new(TimelineId(1), first * 10, size()).to_string(),
                updated: at,
            };
            branch.put_wal_position(&position).await.unwrap();
        }
    }

    pub(super) fn at(&self, number: i64) {
        self.clock.set(day(number));
    }

    /// The worker: does all that was asked for and is not done, and the scheduler hears of it. Gives back how much.
    pub(super) async fn work(&self) -> usize {
        let mut done = 0;
        let document = self.document().await;
        let events = self.events().await;
        let swept = |sweep: SweepId| {
            events
                .iter()
                .any(|event| matches!(event, Event::BranchSwept(swept) if swept.sweep_id == sweep))
        };
        for event in &events {
            let Event::BranchSweepRequested(request) = event else {
                continue;
            };
            let listed = document
                .sweeps
                .values()
                .any(|one| one.sweep_id == request.sweep_id && one.withdrawn_at.is_none());
            if swept(request.sweep_id) || !listed {
                continue;
            }
            self.sweep(request).await;
            done += 1;
        }
        done
    }

    pub(super) async fn sweep(&self, request: &BranchSweepRequested) {
        let branch = self
            .world
            .repository
            .writer(&request.instance, &request.branch);
        let sweep = &request.sweep;
        let named = branch.packs_named_by_others(&sweep.backups).await.unwrap();
        for backup in &sweep.backups {
            let _ = branch.delete_backup(*backup, &named, &|| {}).await.unwrap();
        }
        let _ = branch.prune_wal(&sweep.wal, size(), &|| {}).await.unwrap();
        let files = branch.find_prunable(&[], &sweep.histories, size()).await;
        let mut files = files.unwrap();
        while branch.prune_history(&mut files).await.unwrap().is_some() {}
        let named = branch.packs_named_by_others(&[]).await.unwrap();
        for backup in &sweep.leftovers {
            let age = retention::LEFTOVER_AGE;
            let gone = branch.delete_leftovers(*backup, &named, age, &|| {}).await;
            let _gone = gone.unwrap();
        }
        if sweep.hollow {
            let found = branch.find_hollow().await.unwrap().unwrap();
            let remains = branch.delete_hollow_remains(&found, &|| {}).await;
            assert!(remains.unwrap().is_some());
            assert!(branch.delete_hollow_record(found).await.unwrap().is_some());
        }
        if sweep.purge {
            let all = branch.find_all().await.unwrap();
            let remains = branch.delete_hollow_remains(&all, &|| {}).await;
            assert!(remains.unwrap().is_some());
            assert!(branch.delete_hollow_record(all).await.unwrap().is_some());
            self.tell(Event::BranchDeleted(BranchDeleted {
                instance: request.instance.clone(),
                branch: request.branch.clone(),
                restore_id: None,
            }))
            .await;
        }
        let event = Event::BranchSwept(BranchSwept {
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            sweep_id: request.sweep_id,
            objects: 1,
            bytes: 1,
            swept_at: self.world.clock.now(),
        });
        self.tell(event.clone()).await;
        self.hear_outcome(event).await;
    }

    pub(super) async fn tell(&self, event: Event) {
        let message = MessageId::new(Uuid::now_v7().to_string());
        let outgoing = Outgoing::new(event, message, self.world.clock.now());
        let _sequence = self.world.bus.publish(outgoing).await.unwrap();
    }

    pub(super) async fn hear_outcome(&self, event: Event) {
        let outcomes = Outcomes {
            world: self.world.clone(),
        };
        let delivery = Delivery {
            envelope: Envelope {
                id: MessageId::new("x"),
                source: "test".to_owned(),
                time: self.world.clock.now(),
                correlation: None,
                causation: None,
                traceparent: None,
                tracestate: None,
                message: event,
            },
            sequence: Sequence(1),
            stored_at: self.world.clock.now(),
            attempt: 1,
            last_attempt: false,
            progress: Progress::default(),
        };
        assert_eq!(outcomes.handle(&delivery).await, bus::Outcome::Done);
    }

    pub(super) async fn backups(&self) -> Vec<u64> {
        let backups = self.branch().list_backups().await.unwrap();
        let numbers = backups
            .iter()
            .map(|id| u64::try_from(id.0.as_u128()).unwrap());
        numbers.collect()
    }

    pub(super) async fn segments(&self) -> Vec<u64> {
        let listed = self.branch().list_wal(size()).await.unwrap();
        let numbers = listed.iter().filter_map(|object| match object.kind {
            repository::WalObjectKind::Segment(name) => Some(name.number(size())),
            _ => None,
        });
        numbers.collect()
    }

    pub(super) async fn mark_as(&self, number: u64, mark: BackupMark) {
        let branch = self.branch();
        let read = branch.mark(id(number)).await.unwrap();
        let put = branch.put_mark(id(number), &mark, &read).await.unwrap();
        assert!(matches!(put, PutMark::Written(_)));
    }

    pub(super) async fn explain(&self, at: Option<Timestamp>) -> BranchRetention {
        let question = RetentionQuestion {
            instance: instance(),
            at,
        };
        let answer = crate::retention::answer(&self.world, question)
            .await
            .unwrap();
        answer
            .branches
            .into_iter()
            .find(|one| one.branch == main())
            .unwrap()
    }

    pub(super) async fn count(&self, type_name: &str) -> usize {
        let types = self.types().await;
        types.into_iter().filter(|one| *one == type_name).count()
    }
}
