//! Long lists, page by page, each in one message.

use events::event::AlertRule;
use events::query::{
    AlertList, Alerts, BackupList, Backups, DrillList, Drills, InstanceList, Instances,
};
use events::{DrillId, Event, InstanceName};
use serde_json::json;

use super::start;
use crate::scenario::lives::{alert_life, drill_life};
use crate::scenario::{backup_id, completed, registered};

/// What NATS takes in one message, if it is not told otherwise.
const MESSAGE_BYTES: usize = 1 << 20;

/// A completed backup with a name as long as it may be, and some damaged pages.
fn taken(number: u128) -> Event {
    let Event::BackupCompleted(mut event) = completed("orders", backup_id(number)) else {
        panic!("the type was asked for");
    };
    event.summary.name = "ä".repeat(50);
    let page = event.summary.damaged_pages[0].clone();
    event.summary.damaged_pages = vec![page; 10];
    Event::BackupCompleted(event)
}

#[tokio::test]
async fn a_list_that_no_message_takes_comes_in_pages() {
    let running = start().await;
    let mut events = vec![registered("orders")];
    events.extend((0..1500).map(taken));
    running.publish(events).await;
    running.caught_up().await;
    let mut question = BackupList {
        instance: Some(InstanceName::new("orders").unwrap()),
        limit: Some(1000),
        ..BackupList::default()
    };
    let mut found = Vec::new();
    let mut pages = 0;
    loop {
        let answer = running.ask("backup.list", json!(question)).await;
        assert!(answer.to_string().len() < MESSAGE_BYTES);
        let page: Backups = serde_json::from_value(answer).unwrap();
        found.extend(page.backups.iter().map(|backup| backup.id));
        pages += 1;
        question.after = page.next;
        if question.after.is_none() {
            break;
        }
    }
    assert!(pages > 2, "a thousand of them were one message");
    let expected: Vec<_> = (0..1500).rev().map(backup_id).collect();
    assert_eq!(found, expected);
}

/// The end of a drill whose checks say a lot.
fn rehearsed(number: u128) -> Event {
    let life = drill_life("orders", number, Some(events::example::at(600)));
    let Some(Event::DrillCompleted(mut event)) = life.into_iter().next_back() else {
        panic!("it comes out well");
    };
    event.summary.checks[0].detail = "a row begins with ä".repeat(100);
    Event::DrillCompleted(event)
}

#[tokio::test]
async fn drills_that_no_message_takes_come_in_pages() {
    let running = start().await;
    let mut events = vec![registered("orders")];
    events.extend((0..900).map(rehearsed));
    running.publish(events).await;
    running.caught_up().await;
    let mut question = DrillList {
        limit: Some(1000),
        ..DrillList::default()
    };
    let mut found = std::collections::BTreeSet::new();
    let (mut pages, mut rows) = (0, 0);
    loop {
        let answer = running.ask("drill.list", json!(question)).await;
        assert!(answer.to_string().len() < MESSAGE_BYTES);
        let page: Drills = serde_json::from_value(answer).unwrap();
        rows += page.drills.len();
        found.extend(page.drills.iter().map(|drill| drill.id));
        pages += 1;
        match page.next {
            Some(next) => question.offset = next,
            None => break,
        }
    }
    assert!(pages > 1, "nine hundred of them were one message");
    let expected = (0..900).map(|number| DrillId(uuid::Uuid::from_u128(number)));
    assert!(rows == 900 && found.into_iter().eq(expected));
}

#[tokio::test]
async fn alerts_that_no_message_takes_are_cut_and_said_to_be() {
    let running = start().await;
    let mut events = vec![registered("orders")];
    for number in 0..400 {
        let [Event::AlertRaised(mut raised), _] =
            alert_life("orders", AlertRule::WalGap, number * 100)
        else {
            panic!("it is raised");
        };
        raised.branch = events::BranchName::new(format!("b{number}")).unwrap();
        raised.message = "ä".repeat(2_000);
        events.push(Event::AlertRaised(raised));
    }
    running.publish(events).await;
    running.caught_up().await;
    let ask = async |limit: u32| {
        let question = AlertList {
            limit: Some(limit),
            ..AlertList::default()
        };
        let answer = running.ask("alert.list", json!(question)).await;
        assert!(answer.to_string().len() < MESSAGE_BYTES);
        serde_json::from_value::<Alerts>(answer).unwrap()
    };
    let all = ask(1000).await;
    assert!(all.more && all.alerts.len() < 400, "{}", all.alerts.len());
    assert_eq!(ask(10).await.alerts.len(), 10);
}

#[tokio::test]
async fn instances_come_in_pages() {
    let running = start().await;
    let names = ["a", "a-b", "a0", "b"];
    running.publish(names.map(registered).to_vec()).await;
    running.caught_up().await;
    let mut question = InstanceList {
        limit: Some(3),
        after: None,
    };
    let first = running.ask("instance.list", json!(question)).await;
    let first: Instances = serde_json::from_value(first).unwrap();
    assert_eq!(first.instances.len(), 3);
    question.after = first.next;
    let last = running.ask("instance.list", json!(question)).await;
    let last: Instances = serde_json::from_value(last).unwrap();
    let found = first.instances.iter().chain(&last.instances);
    assert!(found.map(|view| view.name.as_str()).eq(names));
    assert_eq!(last.next, None);
}
