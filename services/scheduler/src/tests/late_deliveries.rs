//! The first delivery of a command stands still, wherever it waits; another one does all of it, others undo it and make
//! the name anew; then the first one goes on, and changes nothing.
//!
//! Every place where it waits is played, one after the other.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Outcome, Outgoing};
use events::command::{
    BranchDelete, BranchRegister, InstanceRemove, InstanceUpdate, RestoreCreate, ScheduleCreate,
    ScheduleDelete, ScheduleUpdate,
};
use events::document::Branch;
use events::event::{BranchDeleted, InstanceRegistered, RegisteredBranch};
use events::{
    ArchiveMode, BranchName, ClusterSize, Command, Event, InstanceDocument, MessageId, PoolName,
    RestoreId, RestoreTarget, ScheduleId, example,
};
use repository::faulty::{Fault, FaultyStore, Operation};
use repository::{Repository, RetryPolicy};
use testkit::postgres::Postgres;

use super::firing::{document, registered};
use super::{Place, command_id, instance};

const START: &str = "2026-01-01T00:00:00Z";
/// Longer than the bus remembers what was said to it.
const FORGOTTEN: Duration = Duration::from_secs(180);
/// The command that stands still.
const LATE: u128 = 50;

impl Place {
    /// On a bus that is as far away as a server.
    fn far() -> Place {
        let mut place = Place::new(START);
        place.world.bus = Bus::in_memory_far();
        place
    }

    /// With `orders`, whose server is gone and never had a slot, and a branch that was restored.
    async fn with_branch() -> Place {
        let place = Place::far();
        let mut wanted = document(place.world.clock.now());
        let dsn = place.sealed("postgres://u:p@127.0.0.1:1/db");
        for branch in wanted.branches.values_mut() {
            if let Branch::Active(main) = branch {
                (main.archive_mode, main.dsn) = (ArchiveMode::Command, dsn.clone());
            }
        }
        registered(&place, &wanted).await;
        place.make_fix(1).await;
        place
    }

    /// Restores to `fix`, by the command of this number.
    async fn make_fix(&self, number: u128) {
        self.decide(number, 1, restore_fix()).await;
        let mut commands = example::commands().into_iter();
        let register = commands.find_map(|command| match command {
            Command::BranchRegister(register) => Some(register),
            _ => None,
        });
        let mut register = BranchRegister {
            instance: instance(),
            branch: fix(),
            ..register.unwrap()
        };
        register.origin.restore_id = RestoreId(command_id(number).0);
        self.decide(number + 100, 1, Command::BranchRegister(register))
            .await;
    }

    /// A restorer has removed the server of the restore with this number, and says so.
    async fn remove_fix(&self, number: u128) {
        let deleted = Event::BranchDeleted(BranchDeleted {
            instance: instance(),
            branch: fix(),
            restore_id: Some(RestoreId(command_id(number).0)),
        });
        self.take_note_of(deleted).await;
        assert_eq!(self.fix().await, None);
    }

    async fn take_note_of(&self, event: Event) {
        let delivery = self.delivery(MessageId::new("heard"), event);
        let outcomes = crate::outcomes::Outcomes {
            world: self.world.clone(),
        };
        let heard = bus::Handler::handle(&outcomes, &delivery).await;
        assert_eq!(heard, Outcome::Done);
    }

    async fn decide(&self, number: u128, attempt: u64, command: Command) {
        let done = self.deliver(command_id(number), attempt, command).await;
        assert_eq!(done, Outcome::Done);
    }

    async fn now_wanted(&self) -> Option<InstanceDocument> {
        let document = self.world.bus.instances().get(&instance()).await.unwrap();
        document.map(|(document, _)| document)
    }

    async fn fix(&self) -> Option<Branch> {
        let wanted = self.now_wanted().await.unwrap();
        wanted.branches.get(&fix()).cloned()
    }

    async fn told(&self, what: &str) -> usize {
        let types = self.types().await;
        types.iter().filter(|told| **told == what).count()
    }
}

fn fix() -> BranchName {
    BranchName::new("fix").unwrap()
}

fn restore_fix() -> Command {
    Command::RestoreCreate(RestoreCreate {
        instance: instance(),
        source_branch: BranchName::main(),
        branch: fix(),
        target: RestoreTarget::Latest,
        size: ClusterSize::Small,
        keep_passwords: false,
    })
}

fn delete_fix(purge: bool) -> Command {
    Command::BranchDelete(BranchDelete {
        instance: instance(),
        branch: fix(),
        purge,
    })
}

/// Plays `meanwhile` at each place where the first delivery waits, and looks what is there when it has gone on.
async fn at_each_wait(
    begin: impl AsyncFn() -> Place,
    command: Command,
    meanwhile: impl AsyncFn(&Place),
    after: impl AsyncFn(&Place, usize),
) {
    for waits in 0..500 {
        let place = begin().await;
        let mut late = pin!(place.deliver(command_id(LATE), 1, command.clone()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..waits {
            if late.as_mut().poll(&mut context).is_ready() {
                assert!(waits > 4, "it never waits");
                println!("{waits} places");
                return;
            }
            tokio::task::yield_now().await;
        }
        meanwhile(&place).await;
        tokio::time::advance(FORGOTTEN).await;
        let _whatever = late.await;
        after(&place, waits).await;
    }
    panic!("it never ends");
}

#[tokio::test(start_paused = true)]
async fn the_next_branch_of_the_name_is_not_deleted() {
    for purge in [true, false] {
        let meanwhile = async |place: &Place| {
            place.decide(LATE, 2, delete_fix(purge)).await;
            place.remove_fix(1).await;
            place.make_fix(2).await;
        };
        let after = async |place: &Place, waits| {
            let now = place.fix().await;
            let active = now.as_ref().is_some_and(|now| now.active().is_some());
            assert!(active, "it stood still at {waits}: {now:?}");
            let told = place.told("branch.deletion_requested").await;
            assert_eq!(told, 1, "it stood still at {waits}");
        };
        at_each_wait(Place::with_branch, delete_fix(purge), meanwhile, after).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_branch_of_the_name_is_not_purged_though_it_is_deleted() {
    let meanwhile = async |place: &Place| {
        place.decide(LATE, 2, delete_fix(true)).await;
        place.remove_fix(1).await;
        place.make_fix(2).await;
        place.decide(60, 1, delete_fix(false)).await;
    };
    let after = async |place: &Place, waits| {
        let of_fix = place
            .events()
            .await
            .into_iter()
            .filter_map(|event| match event {
                Event::BranchDeletionRequested(told) => Some((told.purge, told.restore_id)),
                _ => None,
            });
        let life = |number| Some(RestoreId(command_id(number).0));
        let told: Vec<_> = of_fix.collect();
        assert_eq!(told, [(true, life(1)), (false, life(2))], "at {waits}");
    };
    at_each_wait(Place::with_branch, delete_fix(true), meanwhile, after).await;
}

#[tokio::test]
async fn what_is_said_late_of_a_branch_forgets_no_other_one() {
    let place = Place::with_branch().await;
    let deleted = |life: Option<u128>| {
        Event::BranchDeleted(BranchDeleted {
            instance: instance(),
            branch: fix(),
            restore_id: life.map(|number| RestoreId(command_id(number).0)),
        })
    };
    place.decide(60, 1, delete_fix(false)).await;
    place.remove_fix(1).await;
    place.make_fix(2).await;
    place.decide(61, 1, delete_fix(false)).await;
    // The second one's server still runs; what an older version said came before that was registered.
    for late in [Some(1), None] {
        place.take_note_of(deleted(late)).await;
        assert!(matches!(place.fix().await, Some(Branch::Deleting(_))));
    }
    place.take_note_of(deleted(Some(2))).await;
    assert_eq!(place.fix().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_is_over_claims_no_name() {
    let begin = async || {
        let place = Place::far();
        registered(&place, &document(place.world.clock.now())).await;
        place
    };
    let meanwhile = async |place: &Place| {
        place.decide(LATE, 2, restore_fix()).await;
        let failed = example::events().into_iter().find_map(|event| match event {
            Event::RestoreFailed(failed) => Some(failed),
            _ => None,
        });
        let mut failed = failed.unwrap();
        (failed.instance, failed.branch) = (instance(), fix());
        failed.restore_id = RestoreId(command_id(LATE).0);
        let mut delivery = place.delivery(MessageId::new("failed"), Event::RestoreFailed(failed));
        delivery.envelope.correlation = Some(RestoreId(command_id(LATE).0).to_string());
        let outcomes = crate::outcomes::Outcomes {
            world: place.world.clone(),
        };
        let _done = bus::Handler::handle(&outcomes, &delivery).await;
        assert_eq!(place.fix().await, None);
    };
    let after = async |place: &Place, waits| {
        assert_eq!(place.fix().await, None, "it stood still at {waits}");
    };
    at_each_wait(begin, restore_fix(), meanwhile, after).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_instance_of_the_name_is_not_removed() {
    let begin = async || {
        let place = Place::with_branch().await;
        let mut wanted = place.now_wanted().await.unwrap();
        let _fix = wanted.branches.remove(&fix());
        registered(&place, &wanted).await;
        place
    };
    let remove = Command::InstanceRemove(InstanceRemove {
        instance: instance(),
    });
    let meanwhile = async |place: &Place| {
        // It may be gone by now.
        let begun = begin().await.now_wanted().await.unwrap();
        let mut next = place.now_wanted().await.unwrap_or(begun);
        place.decide(LATE, 2, remove.clone()).await;
        assert_eq!(place.now_wanted().await, None);
        (next.registration, next.removing) = (command_id(60), false);
        registered(place, &next).await;
        let main = next.branches[&BranchName::main()].active().unwrap();
        let event = Event::InstanceRegistered(InstanceRegistered {
            instance: instance(),
            branch: BranchName::main(),
            main: RegisteredBranch::from(main),
            schedules: next.schedules.clone(),
            created_at: next.created_at,
        });
        let now = place.world.clock.now();
        let outgoing = Outgoing::new(event, MessageId::new("registered"), now);
        let _sequence = place.world.bus.publish(outgoing).await.unwrap();
    };
    let after = async |place: &Place, waits| {
        let there = place.now_wanted().await;
        let lives = there.is_some_and(|there| !there.removing);
        assert!(lives, "it stood still at {waits}");
        assert_eq!(place.told("instance.removed").await, 1, "at {waits}");
    };
    at_each_wait(begin, remove.clone(), meanwhile, after).await;
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_was_resumed_is_not_paused_again() {
    let id = example::schedule().id;
    let paused = |paused| {
        Command::ScheduleUpdate(ScheduleUpdate {
            instance: instance(),
            schedule_id: id,
            name: None,
            cron: None,
            timezone: None,
            retention: None,
            wal: None,
            paused: Some(paused),
        })
    };
    let meanwhile = async |place: &Place| {
        place.decide(LATE, 2, paused(true)).await;
        place.decide(60, 1, paused(false)).await;
    };
    let after = async |place: &Place, waits| {
        let wanted = place.now_wanted().await.unwrap();
        assert!(!wanted.schedules[0].paused, "it stood still at {waits}");
        let told = place
            .events()
            .await
            .into_iter()
            .filter_map(|event| match event {
                Event::ScheduleUpdated(told) => Some(told.schedule.paused),
                _ => None,
            });
        let told: Vec<_> = told.collect();
        assert_eq!(told, [true, false], "it stood still at {waits}");
    };
    at_each_wait(Place::with_branch, paused(true), meanwhile, after).await;
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_was_deleted_does_not_come_back() {
    let create = Command::ScheduleCreate(ScheduleCreate {
        instance: instance(),
        branch: BranchName::main(),
        name: None,
        cron: "5 5 * * *".to_owned(),
        timezone: "UTC".to_owned(),
        retention: "7d".parse().unwrap(),
        wal: None,
    });
    let meanwhile = async |place: &Place| {
        place.decide(LATE, 2, create.clone()).await;
        let delete = Command::ScheduleDelete(ScheduleDelete {
            instance: instance(),
            schedule_id: ScheduleId(command_id(LATE).0),
        });
        place.decide(60, 1, delete).await;
    };
    let after = async |place: &Place, waits| {
        let wanted = place.now_wanted().await.unwrap();
        assert_eq!(wanted.schedules.len(), 1, "it stood still at {waits}");
        assert_eq!(place.told("schedule.created").await, 1, "at {waits}");
    };
    at_each_wait(Place::with_branch, create.clone(), meanwhile, after).await;
}

#[tokio::test(start_paused = true)]
async fn older_settings_do_not_come_back() {
    let pool = |pool: &str| {
        Command::InstanceUpdate(InstanceUpdate {
            instance: instance(),
            pool: PoolName::new(pool).ok(),
            dsn: None,
            drills: None,
            no_drills: false,
        })
    };
    let meanwhile = async |place: &Place| {
        place.decide(LATE, 2, pool("eu")).await;
        place.decide(60, 1, pool("us")).await;
    };
    let after = async |place: &Place, waits| {
        let wanted = place.now_wanted().await.unwrap();
        assert_eq!(wanted.pool, PoolName::new("us").ok(), "at {waits}");
        let told = place
            .events()
            .await
            .into_iter()
            .filter_map(|event| match event {
                Event::InstanceUpdated(told) => told.pool,
                _ => None,
            });
        let told: Vec<_> = told.map(|pool| pool.to_string()).collect();
        assert_eq!(told, ["eu", "us"], "it stood still at {waits}");
    };
    at_each_wait(Place::with_branch, pool("eu"), meanwhile, after).await;
}

#[tokio::test]
async fn an_instance_that_was_removed_does_not_come_back_and_leaves_no_slot() {
    let postgres = Postgres::builder().start().await.unwrap();
    let remove = Command::InstanceRemove(InstanceRemove {
        instance: instance(),
    });
    let (mut waits, mut places) = (0, 0);
    loop {
        let place = Place::far();
        let add = place.add(&postgres.dsn());
        let mut late = pin!(place.deliver(command_id(LATE), 1, add.clone()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut ended = false;
        for _ in 0..waits {
            if late.as_mut().poll(&mut context).is_ready() {
                ended = true;
                break;
            }
            // The server answers meanwhile, or not yet.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if ended {
            break;
        }
        // As far as the first delivery has made a slot, it is the second one's.
        place.decide(LATE, 2, add).await;
        place.decide(60, 1, remove.clone()).await;
        let _whatever = late.await;
        assert_eq!(place.now_wanted().await, None, "it stood still at {waits}");
        let slots = postgres.psql("SELECT count(*) FROM pg_replication_slots");
        assert_eq!(slots.await.unwrap(), "0", "it stood still at {waits}");
        waits += 1 + waits / 16;
        places += 1;
    }
    assert!(places > 4, "{places}");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_slow_does_not_bring_back_what_was_removed() {
    let mut place = Place::new(START);
    let store = Arc::new(object_store::memory::InMemory::new());
    let slow = FaultyStore::new(store, |operation, path| {
        let of_instance = path.as_ref().contains("instance");
        match operation == Operation::Put && of_instance {
            true => Fault::Delay(Duration::from_secs(60)),
            false => Fault::Pass,
        }
    });
    place.world.repository = Repository::with_store(Arc::new(slow), "", RetryPolicy::default());
    let wanted = document(place.world.clock.now());
    registered(&place, &wanted).await;
    let name = instance();
    let slow = place.world.mirror(&name);
    let remove = async {
        // Its write of the living instance is on its way.
        tokio::time::sleep(Duration::from_secs(30)).await;
        let gone = |_: Option<&InstanceDocument>| bus::Decision::Remove(());
        let instances = place.world.bus.instances();
        instances.update(&instance(), gone).await.unwrap();
    };
    let (mirrored, ()) = tokio::join!(slow, remove);
    mirrored.unwrap();
    let mirrored = place.world.repository.instance(&instance()).await.unwrap();
    assert!(mirrored.removing);
}
