//! Schedules by command: checked, counted, named, paused; each command has one effect, however often it comes.

use events::command::{ScheduleCreate, ScheduleDelete, ScheduleUpdate};
use events::document::Schedule;
use events::event::{RefusalCode, Refused};
use events::{BranchName, Command, Event, InstanceDocument, ScheduleId, Timestamp, WalKeep};

use super::firing::{document, registered};
use super::{Place, command_id, instance};

const START: &str = "2026-01-01T00:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn create(name: Option<&str>, cron: &str) -> ScheduleCreate {
    ScheduleCreate {
        instance: instance(),
        branch: BranchName::main(),
        name: name.map(str::to_owned),
        cron: cron.to_owned(),
        timezone: "UTC".to_owned(),
        retention: "7d".parse().unwrap(),
        wal: None,
    }
}

fn update(schedule_id: ScheduleId) -> ScheduleUpdate {
    ScheduleUpdate {
        instance: instance(),
        schedule_id,
        name: None,
        cron: None,
        timezone: None,
        retention: None,
        wal: None,
        paused: None,
    }
}

fn delete(schedule_id: ScheduleId) -> Command {
    Command::ScheduleDelete(ScheduleDelete {
        instance: instance(),
        schedule_id,
    })
}

fn id(number: u128) -> ScheduleId {
    ScheduleId(command_id(number).0)
}

impl Place {
    /// With `orders` and no schedule.
    async fn bare() -> Place {
        let place = Place::new(START);
        let bare = InstanceDocument {
            schedules: Vec::new(),
            ..document(at(START))
        };
        registered(&place, &bare).await;
        place
    }

    async fn wanted(&self) -> InstanceDocument {
        let document = self.world.bus.instances().get(&instance()).await.unwrap();
        document.unwrap().0
    }

    async fn schedule(&self, id: ScheduleId) -> Schedule {
        let wanted = self.wanted().await.schedules;
        wanted.into_iter().find(|s| s.id == id).unwrap()
    }

    async fn refused(&self) -> Refused {
        match self.events().await.pop() {
            Some(Event::ScheduleRefused(refused) | Event::InstanceRefused(refused)) => refused,
            other => panic!("{other:?} is no refusal"),
        }
    }
}

#[tokio::test]
async fn the_life_of_a_schedule_with_every_command_delivered_twice() {
    let place = Place::bare().await;
    let mut resume = update(id(1));
    resume.paused = Some(false);
    let pause = ScheduleUpdate {
        paused: Some(true),
        ..resume.clone()
    };
    let commands = [
        (1, Command::ScheduleCreate(create(None, "30 2 * * *"))),
        (2, Command::ScheduleUpdate(pause.clone())),
        (3, Command::ScheduleUpdate(resume)),
        (4, delete(id(1))),
    ];
    for (number, command) in commands.clone() {
        for attempt in 1..=2 {
            let _ = place
                .deliver(command_id(number), attempt, command.clone())
                .await;
        }
    }
    let all = [
        "schedule.created",
        "schedule.updated",
        "schedule.updated",
        "schedule.deleted",
    ];
    assert_eq!(place.types().await, all);
    // All of them once more, long after: nothing comes back, nothing is told again.
    for (number, command) in commands {
        let _ = place.deliver(command_id(number), 3, command).await;
    }
    assert_eq!(place.types().await, all);
    assert!(place.wanted().await.schedules.is_empty());
    let mirrored = place.world.repository.instance(&instance()).await.unwrap();
    assert_eq!(mirrored, place.wanted().await);
    // A pause that comes again after the resumption does not pause.
    let create = Command::ScheduleCreate(create(None, "30 2 * * *"));
    let _ = place.deliver(command_id(5), 1, create).await;
    for (number, attempt, paused) in [(6, 1, true), (7, 1, false), (6, 2, true)] {
        let command = ScheduleUpdate {
            schedule_id: id(5),
            paused: Some(paused),
            ..pause.clone()
        };
        let command = Command::ScheduleUpdate(command);
        let _ = place.deliver(command_id(number), attempt, command).await;
    }
    assert!(!place.schedule(id(5)).await.paused);
}

#[tokio::test]
async fn what_is_stored_is_the_normal_form_and_what_cannot_be_is_refused() {
    let place = Place::bare().await;
    let berlin = ScheduleCreate {
        timezone: "Europe/Berlin".to_owned(),
        wal: Some(WalKeep::For("3d".parse().unwrap())),
        ..create(Some(" \u{1F980} 'monthly' "), "@monthly")
    };
    let _ = place
        .deliver(command_id(1), 1, Command::ScheduleCreate(berlin.clone()))
        .await;
    let schedule = place.schedule(id(1)).await;
    assert_eq!(schedule.name, "\u{1F980} 'monthly'");
    assert_eq!(schedule.cron, "0 0 1 * *");
    assert_eq!(schedule.created_at, at(START));
    let Some(Event::ScheduleCreated(created)) = place.events().await.pop() else {
        panic!("it was made");
    };
    assert_eq!(created.next[0], at("2026-01-31T23:00:00Z"));

    let check = async |number, create: ScheduleCreate, code, words: &str| {
        let command = Command::ScheduleCreate(create);
        let _ = place.deliver(command_id(number), 1, command).await;
        let refused = place.refused().await;
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(refused.message.contains(words), "{refused:?}");
        assert!(!refused.hint.is_empty());
    };
    use RefusalCode::{Invalid, NameTaken, NotFound};
    let zone = |zone: &str| ScheduleCreate {
        timezone: zone.to_owned(),
        ..create(None, "@daily")
    };
    check(2, zone("Europe/Berln"), Invalid, "Europe/Berlin").await;
    check(3, zone(""), Invalid, "time zone").await;
    check(4, create(None, "0 0 30 2 *"), Invalid, "never fires").await;
    check(5, create(None, "* * * *"), Invalid, "five").await;
    check(6, create(Some("a\nb"), "@daily"), Invalid, "name").await;
    let taken = create(Some("\u{1F980} 'monthly'"), "@daily");
    check(7, taken, NameTaken, "'monthly'").await;
    let other = BranchName::new("nobody").unwrap();
    let elsewhere = ScheduleCreate {
        branch: other,
        ..create(None, "@daily")
    };
    check(8, elsewhere, NotFound, "nobody").await;
    let longer = ScheduleCreate {
        wal: Some(WalKeep::For("8d".parse().unwrap())),
        ..create(None, "@daily")
    };
    check(9, longer, Invalid, "8d").await;
    assert_eq!(place.wanted().await.schedules.len(), 1);
}

#[tokio::test]
async fn blank_names_are_generated_and_five_schedules_are_enough() {
    let place = Place::bare().await;
    for number in 1..=6 {
        let command = Command::ScheduleCreate(create(Some("  "), "30 2 * * *"));
        let _ = place.deliver(command_id(number), 1, command).await;
    }
    let refused = place.refused().await;
    assert_eq!(refused.code, RefusalCode::Limit);
    assert!(refused.hint.contains("schedule list orders"), "{refused:?}");
    let names = |document: InstanceDocument| -> Vec<String> {
        document.schedules.into_iter().map(|s| s.name).collect()
    };
    let five = ["daily", "daily 2", "daily 3", "daily 4", "daily 5"];
    assert_eq!(names(place.wanted().await), five);
    // The refused command is not accepted after the fact, when there is room.
    let _ = place.deliver(command_id(7), 1, delete(id(2))).await;
    let again = Command::ScheduleCreate(create(None, "30 2 * * *"));
    let _ = place.deliver(command_id(6), 2, again.clone()).await;
    assert_eq!(place.wanted().await.schedules.len(), 4);
    let _ = place.deliver(command_id(8), 1, again).await;
    let five = ["daily", "daily 3", "daily 4", "daily 5", "daily 2"];
    assert_eq!(names(place.wanted().await), five);
}

#[tokio::test]
async fn what_was_paused_or_changed_is_not_caught_up() {
    let place = Place::bare().await;
    let command = Command::ScheduleCreate(create(None, "30 2 * * *"));
    let _ = place.deliver(command_id(1), 1, command).await;
    let check = async |number, now: &str, change: ScheduleUpdate, no_fire_before: &str| {
        place.clock.set(at(now));
        let command = Command::ScheduleUpdate(change);
        let _ = place.deliver(command_id(number), 1, command).await;
        let schedule = place.schedule(id(1)).await;
        assert_eq!(schedule.created_at, at(no_fire_before), "{number}");
        let Some(Event::ScheduleUpdated(updated)) = place.events().await.pop() else {
            panic!("it was changed");
        };
        assert_eq!(updated.schedule, schedule);
        assert_eq!(updated.next.is_empty(), schedule.paused);
        assert!(updated.next.iter().all(|fire| *fire > schedule.created_at));
    };
    let retention = ScheduleUpdate {
        retention: "30d".parse().ok(),
        name: Some("nightly".to_owned()),
        ..update(id(1))
    };
    check(2, "2026-01-02T00:00:00Z", retention, START).await;
    let paused = |paused| ScheduleUpdate {
        paused: Some(paused),
        ..update(id(1))
    };
    check(3, "2026-01-03T00:00:00Z", paused(true), START).await;
    let resumed = "2026-02-01T12:00:00Z";
    check(4, resumed, paused(false), resumed).await;
    // Resumed though it was not paused: a fire that is due stays due.
    check(5, "2026-02-02T03:00:00Z", paused(false), resumed).await;
    let cron = ScheduleUpdate {
        cron: Some("30 1 * * *".to_owned()),
        ..update(id(1))
    };
    let changed = "2026-02-03T12:00:00Z";
    check(6, changed, cron.clone(), changed).await;
    check(7, "2026-02-04T12:00:00Z", cron, changed).await;
    let moved = "2026-02-05T12:00:00Z";
    let zone = ScheduleUpdate {
        timezone: Some("Asia/Tokyo".to_owned()),
        ..update(id(1))
    };
    check(8, moved, zone, moved).await;

    let nobody = Command::ScheduleUpdate(update(id(99)));
    let _ = place.deliver(command_id(9), 1, nobody).await;
    assert_eq!(place.refused().await.code, RefusalCode::NotFound);
    let _ = place.deliver(command_id(10), 1, delete(id(99))).await;
    assert_eq!(place.refused().await.code, RefusalCode::NotFound);
}

#[tokio::test]
async fn a_deletion_that_was_told_and_not_done_is_done_by_the_next_delivery() {
    let place = Place::bare().await;
    let command = Command::ScheduleCreate(create(None, "30 2 * * *"));
    let _ = place.deliver(command_id(1), 1, command).await;
    let before = place.wanted().await;
    let _ = place.deliver(command_id(2), 1, delete(id(1))).await;
    // As if the first delivery had died after its event.
    registered(&place, &before).await;
    let _ = place.deliver(command_id(2), 2, delete(id(1))).await;
    assert!(place.wanted().await.schedules.is_empty());
    assert_eq!(
        place.types().await,
        ["schedule.created", "schedule.deleted"]
    );
}
