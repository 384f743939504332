//! `zektor events`: CloudEvents, one JSON object a line, whatever `--output` says.

use std::pin::Pin;

use bus::{BusError, From, Sequence, Stored};
use events::{Envelope, Event, InstanceName, topology};
use futures::stream::{Peekable, select};
use futures::{Stream, StreamExt as _};
use serde::Serialize;

use crate::arguments::EventsArguments;
use crate::failure::Failure;
use crate::output::{Reader, Reply, exact, note, write_out};
use crate::session::Setting;

/// Its subject is not its name alone.
const BACKUP_REQUESTED: &str = "backup.requested";

type Items = Pin<Box<dyn Stream<Item = Result<Stored<Event>, BusError>> + Send>>;

/// Prints events: those that the streams hold, or what happens from now on.
pub(crate) async fn events(setting: &Setting, which: &EventsArguments) -> Result<Reply, Failure> {
    if let Some(name) = &which.event_type
        && !Event::TYPES.contains(&name.as_str())
    {
        return Err(Failure::usage(
            format!("{name:?} is not a type of event"),
            format!("known are {}", Event::TYPES.join(", ")),
        ));
    }
    // Everything on stdout is a line, and so is the error.
    let failure = told(setting, which).await.err();
    Ok(Reply {
        failure,
        ..Reply::nothing()
    })
}

async fn told(setting: &Setting, which: &EventsArguments) -> Result<(), Failure> {
    let session = setting.connect().await?;
    let mut opened = Vec::new();
    for (stream, subjects) in selected(which) {
        let items: Items = match which.follow {
            true => {
                let last = session.bus.stream_state(stream).await?.last;
                Box::pin(
                    session
                        .bus
                        .follow(subjects, From::Sequence(last.next().0), stream),
                )
            }
            false => Box::pin(
                session
                    .bus
                    .history(subjects, Sequence::NONE, stream)
                    .await?,
            ),
        };
        opened.push(items);
    }
    let all = match which.follow {
        true => opened
            .into_iter()
            .fold(Box::pin(futures::stream::empty()) as Items, |all, items| {
                Box::pin(select(all, items))
            }),
        false => in_order(opened),
    };
    tokio::select! {
        printed = print(of_type(all, which.event_type.clone())) => printed,
        _interrupted = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn print(mut all: Items) -> Result<(), Failure> {
    while let Some(item) = all.next().await {
        match item {
            Ok(stored) => {
                let line = line(&stored.envelope)
                    .map_err(|error| Failure::local("an event cannot be written", &error))?;
                let written = write_out(&format!("{line}\n"))
                    .map_err(|error| Failure::local("stdout cannot be written", &error))?;
                if written == Reader::Gone {
                    return Ok(());
                }
            }
            Err(error @ BusError::Undecodable { .. }) => note(&service::run::chain(&error)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The streams that hold what was asked for, and the subjects there.
fn selected(which: &EventsArguments) -> Vec<(&'static str, Vec<String>)> {
    let EventsArguments {
        event_type,
        instance,
        ..
    } = which;
    if let Some(name) = event_type {
        let stream = match name.starts_with("wal.") {
            true => topology::WAL,
            false => topology::EVENTS,
        };
        return vec![(stream, vec![subject(name, instance.as_ref())])];
    }
    let specs = topology::streams();
    let specs = specs
        .into_iter()
        .filter(|spec| [topology::EVENTS, topology::WAL].contains(&spec.name));
    let of_stream = |spec: topology::StreamSpec| match instance {
        None => (spec.name, spec.subjects),
        Some(instance) => {
            // `zektor.backup.>` becomes `zektor.backup.*.<instance>.>`; WAL types have one token more.
            let types = if spec.name == topology::WAL {
                "*.*"
            } else {
                "*"
            };
            let subjects = spec.subjects.iter().map(|subject| {
                let noun = subject.trim_end_matches(".>");
                format!("{noun}.{types}.{instance}.>")
            });
            (spec.name, subjects.collect())
        }
    };
    specs.map(of_stream).collect()
}

fn subject(type_name: &str, instance: Option<&InstanceName>) -> String {
    match instance {
        // The pool of the workers is part of the verb, and a wildcard is a whole one.
        Some(instance) if type_name == BACKUP_REQUESTED => format!("zektor.backup.*.{instance}.>"),
        None if type_name == BACKUP_REQUESTED => "zektor.backup.>".to_owned(),
        Some(instance) => format!("zektor.{type_name}.{instance}.>"),
        None => events::subject::events_of(type_name),
    }
}

/// Those of a type, where the subjects that were read have others too.
fn of_type(items: Items, wanted: Option<String>) -> Items {
    let Some(wanted) = wanted else {
        return items;
    };
    Box::pin(items.filter(move |item| {
        let other = matches!(item, Ok(stored) if stored.envelope.message.type_name() != wanted);
        std::future::ready(!other)
    }))
}

/// Several streams as one, by the time at which the server stored each message.
fn in_order(streams: Vec<Items>) -> Items {
    let streams: Vec<_> = streams
        .into_iter()
        .map(|items| Box::pin(items.peekable()))
        .collect();
    Box::pin(futures::stream::unfold(streams, |mut streams| async move {
        let mut earliest: Option<(usize, events::Timestamp)> = None;
        for (index, stream) in streams.iter_mut().enumerate() {
            // An error goes first: it may end its stream.
            let time = match Peekable::peek(stream.as_mut()).await {
                None => continue,
                Some(Ok(stored)) => stored.time,
                Some(Err(_)) => events::Timestamp::MIN_UTC,
            };
            if earliest.is_none_or(|(_, earliest)| time < earliest) {
                earliest = Some((index, time));
            }
        }
        let (index, _) = earliest?;
        let item = streams[index].next().await?;
        Some((item, streams))
    }))
}

/// An event in the fields of the contract.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'a str,
    id: &'a str,
    time: String,
    source: &'a str,
    instance: Option<String>,
    branch: Option<String>,
    correlation: Option<&'a str>,
    causation: Option<&'a str>,
    data: &'a Event,
}

fn line(envelope: &Envelope<Event>) -> serde_json::Result<String> {
    let event = &envelope.message;
    let mut address = event.address().into_iter();
    serde_json::to_string(&Line {
        r#type: event.type_name(),
        id: envelope.id.as_str(),
        time: exact(envelope.time),
        source: &envelope.source,
        instance: address.next(),
        branch: address.next(),
        correlation: envelope.correlation.as_deref(),
        causation: envelope.causation.as_deref(),
        data: event,
    })
}

#[cfg(test)]
mod tests {
    use bus::{Bus, Outgoing, Sequence};
    use events::event::{BranchStopped, InstanceRemoved};
    use events::{BackupId, Event, MessageId, PoolName, example, topology};
    use futures::StreamExt as _;
    use uuid::Uuid;

    use super::{Items, in_order, line, of_type, selected};
    use crate::arguments::EventsArguments;

    fn which(event_type: Option<&str>, instance: Option<&str>) -> EventsArguments {
        EventsArguments {
            follow: false,
            event_type: event_type.map(str::to_owned),
            instance: instance.map(|name| name.parse().unwrap()),
        }
    }

    #[test]
    fn subjects_of_what_was_asked_for() {
        let check = |event_type, instance, expected: &[(&str, &str)]| {
            let selected = selected(&which(event_type, instance));
            for (stream, subject) in expected {
                let found = selected.iter().find(|(name, _)| name == stream);
                let subjects = &found.unwrap_or_else(|| panic!("{stream}: {selected:?}")).1;
                assert!(subjects.contains(&(*subject).to_owned()), "{subjects:?}");
            }
            assert_eq!(selected.len(), expected.len(), "{selected:?}");
        };
        check(
            None,
            None,
            &[("EVENTS", "zektor.backup.>"), ("WAL", "zektor.wal.>")],
        );
        check(
            None,
            Some("orders"),
            &[
                ("EVENTS", "zektor.backup.*.orders.>"),
                ("WAL", "zektor.wal.*.*.orders.>"),
            ],
        );
        check(
            Some("backup.completed"),
            None,
            &[("EVENTS", "zektor.backup.completed.>")],
        );
        let archived = "wal.segment.archived";
        check(
            Some(archived),
            Some("a"),
            &[("WAL", "zektor.wal.segment.archived.a.>")],
        );
    }

    #[tokio::test]
    async fn requests_of_pools_are_found_by_their_type() {
        let bus = Bus::in_memory();
        let time = "2026-03-01T10:00:00Z".parse().unwrap();
        let mut expected = Vec::new();
        for (number, event) in example::events().into_iter().enumerate() {
            let Event::BackupRequested(requested) = event else {
                let id = MessageId::new(format!("other{number}"));
                let _ = bus.publish(Outgoing::new(event, id, time)).await.unwrap();
                continue;
            };
            for pool in [
                None,
                PoolName::new("eu").ok(),
                PoolName::new("default").ok(),
            ] {
                let id = BackupId(Uuid::from_u128(expected.len() as u128));
                let mut asked = requested.clone();
                (asked.pool, asked.backup_id) = (pool, id);
                expected.push(id);
                let outgoing = Outgoing::new(
                    Event::BackupRequested(asked),
                    MessageId::new(id.to_string()),
                    time,
                );
                let _ = bus.publish(outgoing).await.unwrap();
            }
        }
        assert_eq!(expected.len(), 3);
        let instance = example::instance();
        for instance in [None, Some(instance.as_str())] {
            let which = which(Some("backup.requested"), instance);
            let mut found = Vec::new();
            for (stream, subjects) in selected(&which) {
                let items = bus.history(subjects, Sequence::NONE, stream).await.unwrap();
                let mut items = of_type(Box::pin(items), which.event_type.clone());
                while let Some(item) = items.next().await {
                    match item.unwrap().envelope.message {
                        Event::BackupRequested(requested) => found.push(requested.backup_id),
                        other => panic!("{other:?}"),
                    }
                }
            }
            assert_eq!(found, expected, "{instance:?}");
        }
    }

    #[tokio::test]
    async fn a_line_is_an_event_and_the_order_is_that_of_storing() {
        let bus = Bus::in_memory();
        let time = "2026-03-01T10:00:00Z".parse().unwrap();
        let (instance, branch): (events::InstanceName, events::BranchName) =
            ("orders".parse().unwrap(), "b".parse().unwrap());
        let stopped = BranchStopped {
            instance: instance.clone(),
            branch: branch.clone(),
        };
        let removed = InstanceRemoved {
            instance,
            branch,
            slot_left: None,
        };
        let published = [
            Event::BranchStopped(stopped),
            Event::InstanceRemoved(removed),
        ];
        for (index, event) in published.into_iter().enumerate() {
            let id = MessageId::new(format!("m{index}"));
            let outgoing = Outgoing::new(event, id, time)
                .correlated("c")
                .caused_by("d");
            let _ = bus.publish(outgoing).await.unwrap();
        }
        let read = |noun: &str| {
            let subjects = vec![format!("zektor.{noun}.>")];
            bus.history(subjects, Sequence::NONE, topology::EVENTS)
        };
        let instances: Items = Box::pin(read("instance").await.unwrap());
        let branches: Items = Box::pin(read("branch").await.unwrap());
        let lines: Vec<_> = in_order(vec![instances, branches])
            .map(|item| line(&item.unwrap().envelope).unwrap())
            .collect()
            .await;
        insta::assert_snapshot!(lines.join("\n"), @r#"
        {"type":"branch.stopped","id":"m0","time":"2026-03-01T10:00:00.000000Z","source":"in-memory","instance":"orders","branch":"b","correlation":"c","causation":"d","data":{"instance":"orders","branch":"b"}}
        {"type":"instance.removed","id":"m1","time":"2026-03-01T10:00:00.000000Z","source":"in-memory","instance":"orders","branch":"b","correlation":"c","causation":"d","data":{"instance":"orders","branch":"b","slot_left":null}}
        "#);
    }
}
