//! Drills on an in-memory bus with a manual clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::{Bus, Decision, Delivery, Handler as _, Outcome, Outgoing, Progress, Sequence};
use chrono::TimeDelta;
use events::command::DrillRun;
use events::document::{ActiveBranch, Branch, DrillSettings};
use events::event::{DrillFailed, FailureCause};
use events::{
    BranchName, Command, CommandId, DrillId, Envelope, Event, InstanceDocument, InstanceName,
    MessageId, Timestamp, example, subject, topology,
};
use futures::StreamExt as _;
use repository::{Repository, RetryPolicy};
use service::{ManualClock, MasterKey};
use uuid::Uuid;

use super::firing::Firing;
use crate::commands::{Commands, World};
use crate::outcomes::Outcomes;

struct Place {
    world: World,
    clock: Arc<ManualClock>,
}

fn instance() -> InstanceName {
    example::instance()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

impl Place {
    async fn new(now: &str, drills: Option<&str>) -> Place {
        let clock = Arc::new(ManualClock::new(at(now)));
        let world = World {
            bus: Bus::in_memory(),
            repository: Repository::open("memory://", RetryPolicy::default()).unwrap(),
            master_key: Arc::new(MasterKey::from_bytes(&[7; 32])),
            clock: Arc::<ManualClock>::clone(&clock),
            config: Arc::default(),
            slots: Arc::default(),
            looks: Arc::default(),
        };
        let place = Place { world, clock };
        let branches = BTreeMap::from([(BranchName::main(), Branch::Active(branch()))]);
        let document = InstanceDocument {
            branches,
            drills: drills.map(|cron| DrillSettings {
                cron: Some(cron.to_owned()),
                timezone: "UTC".to_owned(),
                created_at: at(now),
                ..example::drills()
            }),
            ..InstanceDocument::new(instance(), CommandId(Uuid::nil()), at(now))
        };
        place.change(|_| Some(document.clone())).await;
        place
    }

    async fn change(&self, change: impl Fn(Option<&InstanceDocument>) -> Option<InstanceDocument>) {
        let (instances, instance) = (self.world.bus.instances(), instance());
        let changed = instances.update(&instance, |before| match change(before) {
            Some(after) => Decision::Put(Box::new(after), ()),
            None => Decision::Keep(()),
        });
        changed.await.unwrap();
    }

    async fn document(&self) -> InstanceDocument {
        let found = self.world.bus.instances().get(&instance()).await.unwrap();
        found.unwrap().0
    }

    async fn running(&self) -> Option<DrillId> {
        self.document()
            .await
            .running_drill
            .map(|drill| drill.drill_id)
    }

    /// A look of a replica that knows the documents as they are.
    async fn look(&self, replica: &mut Firing) {
        let listing = self.world.bus.instances().listing().await.unwrap();
        replica.relearn(listing);
        replica.round(&self.world).await;
    }

    async fn events(&self) -> Vec<Event> {
        let bus = &self.world.bus;
        let filters = vec!["zektor.>".to_owned()];
        let history = bus.history(filters, Sequence::NONE, topology::EVENTS);
        let stored: Vec<_> = history.await.unwrap().collect().await;
        stored
            .into_iter()
            .map(|stored| stored.unwrap().envelope.message)
            .collect()
    }

    async fn types(&self) -> Vec<&'static str> {
        self.events().await.iter().map(Event::type_name).collect()
    }

    fn delivery<M>(&self, id: String, message: M) -> Delivery<M> {
        Delivery {
            envelope: Envelope {
                id: MessageId::new(id),
                source: "test".to_owned(),
                time: self.world.clock.now(),
                correlation: None,
                causation: None,
                traceparent: None,
                tracestate: None,
                message,
            },
            sequence: Sequence(1),
            stored_at: self.world.clock.now(),
            attempt: 1,
            last_attempt: false,
            progress: Progress::default(),
        }
    }

    async fn run_by_hand(&self, id: u128) {
        let run = Command::DrillRun(DrillRun {
            instance: instance(),
            branch: BranchName::main(),
        });
        let commands = Commands {
            world: self.world.clone(),
        };
        let id = Uuid::from_u128(id).to_string();
        let outcome = commands.handle(&self.delivery(id, run)).await;
        assert_eq!(outcome, Outcome::Done);
    }

    /// The restorer ends it; the scheduler does not hear of it.
    async fn end(&self, drill_id: DrillId) -> Event {
        let failed = Event::DrillFailed(DrillFailed {
            drill_id,
            instance: instance(),
            branch: BranchName::main(),
            target: None,
            backup_id: None,
            step: events::event::DrillStep::Recover,
            cause: FailureCause::Wal,
            damaged: false,
            message: "a test".to_owned(),
            hint: String::new(),
            checks: Vec::new(),
            failed_at: self.world.clock.now(),
        });
        let fence = subject::drill_fence(&instance(), &BranchName::main(), drill_id);
        let last = self.world.bus.last_on(&fence).await.unwrap().unwrap();
        let id = MessageId::new(Uuid::now_v7().to_string());
        let outgoing = Outgoing::new(failed.clone(), id, self.world.clock.now());
        let bus = &self.world.bus;
        let said = bus.publish_expecting(outgoing, &fence, last.sequence);
        let _ = said.await.unwrap();
        failed
    }

    async fn hear(&self, event: Event) {
        let outcomes = Outcomes {
            world: self.world.clone(),
        };
        let delivery = self.delivery(Uuid::now_v7().to_string(), event);
        assert_eq!(outcomes.handle(&delivery).await, Outcome::Done);
    }
}

fn branch() -> ActiveBranch {
    let dsn = MasterKey::from_bytes(&[7; 32]).seal("postgres://a@b/c", &["test"]);
    ActiveBranch {
        dsn: dsn.unwrap(),
        system_identifier: pg_format::SystemIdentifier(1),
        timeline: pg_format::TimelineId(1),
        server_version: 150_000,
        wal_segment_size: pg_format::WalSegmentSize::DEFAULT,
        origin: None,
        size: None,
        created_at: example::at(0),
        archive_mode: events::ArchiveMode::default(),
        disk_risk: events::DiskRiskPolicy::default(),
    }
}

#[tokio::test]
async fn a_fire_has_one_effect_and_a_week_of_downtime_one_catch_up() {
    let place = Place::new("2026-03-01T00:00:00Z", Some("0 3 * * *")).await;
    let (mut one, mut other) = (Firing::default(), Firing::default());
    place.look(&mut one).await;
    assert!(place.events().await.is_empty());
    // Both replicas see it, and one of them again after a restart.
    place.clock.set(at("2026-03-08T12:00:00Z"));
    let (first, again) = tokio::join!(place.look(&mut one), place.look(&mut other));
    let ((), ()) = (first, again);
    place.look(&mut Firing::default()).await;
    let events = place.events().await;
    let [Event::DrillRequested(request)] = &events[..] else {
        panic!("{events:?}");
    };
    let due = at("2026-03-08T03:00:00Z");
    assert_eq!(request.drill_id, DrillId::scheduled(&instance(), due));
    assert_eq!(request.checks, example::drills().checks);
    assert_eq!(place.running().await, Some(request.drill_id));
    // Its end gives the claim back, told twice or not.
    let ended = place.end(request.drill_id).await;
    place.hear(ended.clone()).await;
    place.hear(ended).await;
    assert_eq!(place.running().await, None);
    place.look(&mut Firing::default()).await;
    assert_eq!(place.types().await, ["drill.requested", "drill.failed"]);
}

#[tokio::test]
async fn a_due_drill_is_skipped_while_another_runs_and_the_next_one_is_not() {
    let place = Place::new("2026-03-01T00:00:00Z", Some("0 3 * * *")).await;
    place.clock.set(at("2026-03-01T02:59:00Z"));
    place.run_by_hand(1).await;
    place.run_by_hand(1).await;
    place.run_by_hand(2).await;
    assert_eq!(place.types().await, ["drill.requested", "drill.refused"]);
    let mut replica = Firing::default();
    place.clock.set(at("2026-03-01T03:00:00Z"));
    for _ in 0..2 {
        place.look(&mut replica).await;
    }
    place.look(&mut Firing::default()).await;
    let types = ["drill.requested", "drill.refused", "drill.skipped"];
    assert_eq!(place.types().await, types);
    let by_hand = DrillId(Uuid::from_u128(1));
    assert_eq!(place.running().await, Some(by_hand));
    // It has ended, and nobody heard of it: the next fire finds out.
    let _unheard = place.end(by_hand).await;
    place.clock.set(at("2026-03-02T03:00:10Z"));
    place.look(&mut replica).await;
    let last = place.types().await.pop();
    assert_eq!(last, Some("drill.requested"));
    let due = DrillId::scheduled(&instance(), at("2026-03-02T03:00:00Z"));
    assert_eq!(place.running().await, Some(due));
}

#[tokio::test]
async fn a_drill_that_nobody_does_is_given_up_at_its_deadline() {
    let place = Place::new("2026-03-01T00:00:00Z", None).await;
    place.run_by_hand(1).await;
    let mut replica = Firing::default();
    place.clock.advance(TimeDelta::hours(23).to_std().unwrap());
    place.look(&mut replica).await;
    assert_eq!(place.types().await, ["drill.requested"]);
    place.clock.advance(TimeDelta::hours(1).to_std().unwrap());
    place.look(&mut replica).await;
    place.look(&mut Firing::default()).await;
    let events = place.events().await;
    let [Event::DrillRequested(_), Event::DrillFailed(failed)] = &events[..] else {
        panic!("{events:?}");
    };
    assert!(failed.message.contains("no restorer began it within 24 h"));
    assert_eq!(place.running().await, None);
}

#[tokio::test]
async fn a_claim_that_was_never_used_is_given_back() {
    let place = Place::new("2026-03-01T00:00:00Z", None).await;
    let (branch, drill) = (BranchName::main(), DrillId(Uuid::from_u128(9)));
    let instance = instance();
    let claimed = place.world.claim_for_drill(&instance, &branch, drill);
    let _ = claimed.await.unwrap();
    let mut replica = Firing::default();
    place.look(&mut replica).await;
    assert_eq!(place.running().await, Some(drill));
    place
        .clock
        .advance(TimeDelta::minutes(11).to_std().unwrap());
    place.look(&mut replica).await;
    assert_eq!(place.running().await, None);
    assert!(place.events().await.is_empty());
}

#[tokio::test]
async fn a_branch_that_is_gone_or_was_never_there_is_not_drilled() {
    let place = Place::new("2026-03-01T00:00:00Z", Some("0 3 * * *")).await;
    place
        .change(|document| {
            let mut document = document.cloned()?;
            document.branches.clear();
            Some(document)
        })
        .await;
    place.clock.set(at("2026-03-02T12:00:00Z"));
    place.look(&mut Firing::default()).await;
    assert!(place.events().await.is_empty());
    place.run_by_hand(1).await;
    assert_eq!(place.types().await, ["drill.refused"]);
    assert_eq!(place.running().await, None);
}

/// The stream was lost with NATS: what a drill before its birth has led to is not known.
#[tokio::test]
async fn after_a_loss_of_nats_no_drill_of_long_ago_is_run() {
    for (hours_before, requested) in [(300, 0), (25, 0), (20, 1)] {
        let place = Place::new("2026-03-01T00:00:00Z", None).await;
        let events = place.world.bus.stream_state(topology::EVENTS).await;
        let born = events.unwrap().created;
        let fire = born - TimeDelta::hours(hours_before);
        let settings = DrillSettings {
            cron: Some(fire.format("%M %H %d %m *").to_string()),
            timezone: "UTC".to_owned(),
            created_at: born - TimeDelta::days(100),
            ..example::drills()
        };
        place
            .change(|document| {
                let mut document = document.cloned()?;
                document.drills = Some(settings.clone());
                Some(document)
            })
            .await;
        place.clock.set(born + TimeDelta::hours(1));
        let mut replica = Firing::default();
        for _ in 0..2 {
            place.look(&mut replica).await;
        }
        assert_eq!(place.types().await.len(), requested, "{hours_before} h");
    }
}
