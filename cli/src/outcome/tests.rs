use std::time::Duration;

use bus::{Bus, BusConfig, Outgoing};
use events::event::{BranchDeleted, BranchDeletionRequested, RefusalCode, Refused};
use events::{BranchName, Command, Event, InstanceName, MessageId, Timestamp, command};
use service::Environment;
use testkit::nats::NatsServer;
use tokio::time::timeout;

use super::{ACCEPTED_WITHIN, DONE_WITHIN, unless_interrupted};
use crate::arguments::Global;
use crate::failure::{Ending, Failure};
use crate::output::OutputFormat;
use crate::session::{Session, Setting};

fn session() -> Session {
    session_on(Bus::in_memory())
}

fn session_on(bus: Bus) -> Session {
    let global = Global {
        output: OutputFormat::Table,
        nats: None,
        home: Some("/nowhere".into()),
        master_key_file: None,
        wait: true,
    };
    Session {
        bus,
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
        restore_id: None,
    });
    let requested = Event::BranchDeletionRequested(BranchDeletionRequested {
        instance,
        branch,
        purge: false,
        restore_id: None,
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
        restore_id: None,
    });
    publish(&session.bus, requested, "requested", &id).await;
    let requested = |event| matches!(event, Event::BranchDeletionRequested(_)).then_some(());
    sent.until(DONE_WITHIN, requested).await.unwrap();
    let failure = sent.until(short, deleted).await.unwrap_err();
    assert_eq!(failure.ending, Ending::Failed);
}

/// A NATS server with the topology, and a connection to it.
async fn real_bus() -> (NatsServer, Bus) {
    let nats = NatsServer::builder().sync_always().start().await.unwrap();
    let bus = Bus::connect(BusConfig::new(nats.url(), "test"))
        .await
        .unwrap();
    bus.apply_topology().await.unwrap();
    (nats, bus)
}

#[tokio::test]
async fn an_outcome_is_heard_over_a_restart_of_the_bus() {
    let (mut nats, bus) = real_bus().await;
    let mut sent = session_on(bus.clone())
        .send(deletion(), &["branch"])
        .await
        .unwrap();
    let id = sent.id.to_string();
    nats.stop().await.unwrap();
    let (restarted, heard) = tokio::join!(
        async {
            nats.start_again().await.unwrap();
            let (instance, branch) = names();
            let gone = Event::BranchDeleted(BranchDeleted {
                instance,
                branch,
                restore_id: None,
            });
            publish(&bus, gone, "gone", &id).await;
        },
        sent.until(DONE_WITHIN, deleted)
    );
    let () = restarted;
    heard.unwrap();
}

#[tokio::test]
async fn a_bus_that_stays_away_is_given_up_with_what_to_look_at() {
    let (mut nats, bus) = real_bus().await;
    let mut sent = session_on(bus).send(deletion(), &["branch"]).await.unwrap();
    sent.outage.given_up_after = Duration::from_secs(1);
    nats.kill().await.unwrap();
    let waited = unless_interrupted(sent.next(), "it", "zektor branch show orders fix");
    let waited = timeout(Duration::from_secs(30), waited).await;
    let failure = waited.expect("it waits for ever").unwrap_err();
    assert_eq!(
        (failure.ending, &*failure.code),
        (Ending::Unreachable, "bus_away")
    );
    let look = "`zektor branch show orders fix`";
    assert!(failure.hint.contains(look), "{failure:?}");
}

#[tokio::test]
async fn a_bus_that_has_forgotten_the_command_is_not_waited_for() {
    let (mut nats, bus) = real_bus().await;
    let mut sent = session_on(bus.clone())
        .send(deletion(), &["branch"])
        .await
        .unwrap();
    nats.lose_everything().await.unwrap();
    let (applied, waited) = tokio::join!(
        bus.apply_topology(),
        timeout(Duration::from_secs(60), sent.next())
    );
    applied.unwrap();
    let failure = waited.expect("it waits for ever").unwrap_err();
    assert!(failure.message.contains("forgotten"), "{failure:?}");
}
