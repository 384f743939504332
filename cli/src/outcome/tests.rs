use std::time::Duration;

use bus::{Bus, Outgoing};
use events::event::{BranchDeleted, BranchDeletionRequested, RefusalCode, Refused};
use events::{BranchName, Command, Event, InstanceName, MessageId, Timestamp, command};
use service::Environment;

use super::{ACCEPTED_WITHIN, DONE_WITHIN};
use crate::arguments::Global;
use crate::failure::{Ending, Failure};
use crate::output::OutputFormat;
use crate::session::{Session, Setting};

fn session() -> Session {
    let global = Global {
        output: OutputFormat::Table,
        nats: None,
        home: Some("/nowhere".into()),
        master_key_file: None,
        wait: true,
    };
    Session {
        bus: Bus::in_memory(),
        stack: None,
        setting: Setting::new(global, Environment::default()).unwrap(),
    }
}

fn names() -> (InstanceName, BranchName) {
    ("orders".parse().unwrap(), "fix".parse().unwrap())
}

fn deletion() -> Command {
    let (instance, branch) = names();
    Command::BranchDelete(command::BranchDelete {
        instance,
        branch,
        purge: false,
    })
}

async fn publish(bus: &Bus, event: Event, id: &str, cause: &str) {
    let time: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
    let outgoing = Outgoing::new(event, MessageId::new(id), time).caused_by(cause);
    let _ = bus.publish(outgoing).await.unwrap();
}

fn deleted(event: Event) -> Option<()> {
    matches!(event, Event::BranchDeleted(_)).then_some(())
}

#[tokio::test]
async fn what_came_of_the_command_is_followed_by_its_causes() {
    let session = session();
    let mut sent = session.send(deletion(), &["branch"]).await.unwrap();
    let id = sent.id.to_string();
    let (instance, branch) = names();
    let gone = Event::BranchDeleted(BranchDeleted {
        instance: instance.clone(),
        branch: branch.clone(),
    });
    let requested = Event::BranchDeletionRequested(BranchDeletionRequested {
        instance,
        branch,
        purge: false,
    });
    // Somebody else's deletion, then the own one, whose end only names what the scheduler said.
    publish(&session.bus, gone.clone(), "other", "another-command").await;
    publish(&session.bus, requested, "requested", &id).await;
    publish(&session.bus, gone, "gone", "requested").await;
    sent.until(ACCEPTED_WITHIN, deleted).await.unwrap();
    let last = session.bus.stream_state("EVENTS").await.unwrap().last;
    assert_eq!(sent.seen, last);
}

#[tokio::test]
async fn a_refusal_is_a_failure() {
    let session = session();
    let mut sent = session.send(deletion(), &["branch"]).await.unwrap();
    let (instance, branch) = names();
    let refused = Event::BranchRefused(Refused {
        instance,
        branch,
        command_id: sent.id,
        code: RefusalCode::NotFound,
        message: "there is no branch fix".to_owned(),
        hint: String::new(),
    });
    let id = sent.id.to_string();
    publish(&session.bus, refused, "refused", &id).await;
    let failure: Failure = sent.until(ACCEPTED_WITHIN, deleted).await.unwrap_err();
    assert_eq!(failure.ending, Ending::NotFound);
}

#[tokio::test]
async fn a_command_that_nobody_takes_is_told_from_one_that_takes_long() {
    let session = session();
    let mut sent = session.send(deletion(), &["branch"]).await.unwrap();
    let id = sent.id.to_string();
    let short = Duration::from_millis(20);
    let failure = sent.until(short, deleted).await.unwrap_err();
    assert_eq!(failure.ending, Ending::Unreachable);
    assert!(failure.message.contains("stays queued"), "{failure}");
    for part in ["zektor status", "zektor events --follow --instance orders"] {
        assert!(failure.hint.contains(part), "{failure}");
    }

    let (instance, branch) = names();
    let requested = Event::BranchDeletionRequested(BranchDeletionRequested {
        instance,
        branch,
        purge: false,
    });
    publish(&session.bus, requested, "requested", &id).await;
    let requested = |event| matches!(event, Event::BranchDeletionRequested(_)).then_some(());
    sent.until(DONE_WITHIN, requested).await.unwrap();
    let failure = sent.until(short, deleted).await.unwrap_err();
    assert_eq!(failure.ending, Ending::Failed);
}
