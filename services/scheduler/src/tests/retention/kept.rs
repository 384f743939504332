//! A backup that somebody wants back while a round sweeps it: each stands still at each of its calls to the store while the
//! other does all of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bus::{Handler as _, Outcome};
use chrono::TimeDelta;
use events::command::BackupUndelete;
use events::{Command, Event, MessageId};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use repository::faulty::{Fault, FaultyStore};
use tokio::sync::Notify;

use super::super::{Place, command_id, delivered, instance};
use super::place::{day, id, main};
use super::{due, opened};
use crate::commands::{Commands, World};
use crate::retention::Rounds;

const STILL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Slow {
    Round,
    Command,
}

struct Race {
    place: Place,
    /// Whose store stands still once.
    slow: World,
    stands: Arc<Notify>,
}

impl Race {
    /// The first of three backups is marked, and its time of grace is over.
    async fn new(number: u64) -> Self {
        let store = Arc::new(InMemory::new());
        let (mut place, _) = Place::retained().await;
        place.world.repository = opened(Arc::clone(&store) as Arc<dyn ObjectStore>);
        place.days(1, 3, Some(30), None).await;
        place.at(9);
        place.mark_as(1, due(day(8))).await;
        let (calls, stands) = (AtomicU64::new(0), Arc::new(Notify::new()));
        let stood = Arc::clone(&stands);
        let faulty = FaultyStore::new(store as Arc<dyn ObjectStore>, move |_, _| {
            if calls.fetch_add(1, Ordering::SeqCst) != number {
                return Fault::Pass;
            }
            stood.notify_one();
            Fault::Delay(STILL)
        });
        let slow = World {
            repository: opened(Arc::new(faulty)),
            ..place.world.clone()
        };
        Race {
            place,
            slow,
            stands,
        }
    }

    async fn round(&self, world: &World) {
        let rounds = Rounds {
            world: world.clone(),
            memory: Arc::default(),
        };
        rounds.branch(&instance(), &main()).await.unwrap();
    }

    async fn undelete(&self, world: &World) {
        let mut delivery = delivered(Command::BackupUndelete(BackupUndelete {
            instance: instance(),
            branch: main(),
            backup_id: id(1),
            retention: None,
        }));
        delivery.envelope.id = MessageId::new(command_id(1).to_string());
        let commands = Commands {
            world: world.clone(),
        };
        assert_eq!(commands.handle(&delivery).await, Outcome::Done);
    }

    /// Whether it stood still at all.
    async fn run(&self, slow: Slow) -> bool {
        let first = async {
            match slow {
                Slow::Round => self.round(&self.slow).await,
                Slow::Command => self.undelete(&self.slow).await,
            }
        };
        let other = async {
            self.stands.notified().await;
            match slow {
                Slow::Round => self.undelete(&self.place.world).await,
                Slow::Command => self.round(&self.place.world).await,
            }
            // The worker may be faster than who stands still.
            let _ = self.place.work().await;
        };
        tokio::pin!(first, other);
        tokio::select! {
            biased;
            () = &mut other => first.await,
            () = &mut first => return false,
        }
        true
    }

    /// Everything that is asked for is done, also what was withdrawn.
    async fn settle(&self) {
        for _ in 0..4 {
            let _ = self.place.work().await;
            let later = self.place.world.clock.now() + TimeDelta::minutes(10);
            self.place.clock.set(later);
            self.round(&self.place.world).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_to_be_kept_is_kept_whenever_a_sweep_comes() {
    for slow in [Slow::Round, Slow::Command] {
        let (mut kept, mut refused) = (0, 0);
        for number in 0.. {
            let race = Race::new(number).await;
            if !Box::pin(race.run(slow)).await {
                break;
            }
            race.settle().await;
            let there = race.place.backups().await.contains(&1);
            let told = race.place.events().await.into_iter().rev();
            let mut told = told
                .filter(|event| matches!(event, Event::BackupUpdated(_) | Event::BackupRefused(_)));
            match told.next() {
                Some(Event::BackupUpdated(_)) => {
                    assert!(there, "{slow:?} {number}: said to be kept, and gone");
                    kept += 1;
                }
                Some(Event::BackupRefused(_)) => refused += 1,
                other => panic!("{slow:?} {number}: {other:?}"),
            }
        }
        assert!(
            kept > 0 && refused > 0,
            "{slow:?}: {kept} kept, {refused} refused"
        );
    }
}
