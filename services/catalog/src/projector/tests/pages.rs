//! Long lists, page by page, each in one message.

use events::query::{BackupList, Backups, InstanceList, Instances};
use events::{Event, InstanceName};
use serde_json::json;

use super::start;
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
