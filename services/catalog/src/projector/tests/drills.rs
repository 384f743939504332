//! Drills that a restorer refuses, and whose proof an instance shows.

use events::event::Refused;
use events::{BranchName, CommandId, Event, Timestamp};
use serde_json::json;
use uuid::Uuid;

use super::start;
use crate::scenario::lives::drill_life;
use crate::scenario::{event, registered};

/// Refused is a drill of this number, or the command that asked for one.
fn refused(number: u128) -> Event {
    let Event::DrillRefused(refused) = event("drill.refused") else {
        panic!("the type was asked for");
    };
    Event::DrillRefused(Refused {
        instance: "orders".parse().unwrap(),
        branch: BranchName::main(),
        command_id: CommandId(Uuid::from_u128(number)),
        ..refused
    })
}

#[tokio::test]
async fn a_refused_drill_has_ended_and_a_refused_command_is_none() {
    let running = start().await;
    running.publish(vec![registered("orders")]).await;
    let requested = drill_life("orders", 7, None).swap_remove(0);
    // The second one was refused before there was a drill; both are told twice.
    let told = vec![
        requested.clone(),
        refused(7),
        refused(8),
        refused(7),
        requested,
    ];
    running.publish(told).await;
    running.caught_up().await;
    let question = json!({"instance": "orders"});
    let drills = running.ask("drill.list", question).await["drills"].clone();
    let [drill] = &drills.as_array().unwrap()[..] else {
        panic!("one was asked for: {drills}");
    };
    assert_eq!(drill["id"], json!(Uuid::from_u128(7)));
    assert_eq!(drill["status"], "skipped");
    for field in ["ended_at", "requested_at", "error", "hint"] {
        assert!(drill[field].is_string(), "{field}: {drill}");
    }
}

#[tokio::test]
async fn an_instance_is_proven_by_drills_of_main() {
    let running = start().await;
    running.publish(vec![registered("orders")]).await;
    let at: Timestamp = events::example::at(600);
    let mut of_branch = drill_life("orders", 1, Some(at));
    for event in &mut of_branch {
        match event {
            Event::DrillRequested(event) => event.branch = "fix".parse().unwrap(),
            Event::DrillStarted(event) => event.branch = "fix".parse().unwrap(),
            Event::DrillCompleted(event) => event.branch = "fix".parse().unwrap(),
            _ => {}
        }
    }
    running.publish(of_branch).await;
    running.caught_up().await;
    let instances = running.ask("instance.list", json!({})).await;
    assert_eq!(instances["instances"][0]["proven_at"], json!(null));
    running.publish(drill_life("orders", 2, Some(at))).await;
    running.caught_up().await;
    let instances = running.ask("instance.list", json!({})).await;
    assert!(instances["instances"][0]["proven_at"].is_string());
}
