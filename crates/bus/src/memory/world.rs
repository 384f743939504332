//! All streams with their consumers, and what happens by itself as time goes by.

use std::collections::BTreeMap;

use events::Timestamp;
use events::topology::{ConsumerSpec, StreamRetention};
use serde_json::json;

use super::consumer::Consumer;
use super::store::Store;
use crate::transport::{Ack, PublishError, RawMessage, RawStored, Receipt, Topology};
use crate::{BusError, Sequence};

#[derive(Debug, Default)]
pub(super) struct World {
    streams: BTreeMap<String, Stream>,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) store: Store,
    work_queue: bool,
    consumers: BTreeMap<String, Consumer>,
}

impl World {
    pub(super) fn apply(&mut self, wanted: &Topology, now: Timestamp) -> Result<(), BusError> {
        for spec in &wanted.streams {
            let stream = self.make(spec.name, &spec.subjects, now);
            stream.work_queue = spec.retention == StreamRetention::WorkQueue;
            stream.store.duplicate_window = spec.duplicate_window;
        }
        for spec in &wanted.buckets {
            let subjects = [format!("$KV.{}.>", spec.name)];
            let stream = self.make(&format!("KV_{}", spec.name), &subjects, now);
            stream.store.history = usize::try_from(spec.history).ok();
        }
        for spec in &wanted.consumers {
            let consumers = &mut self.stream_mut(spec.stream)?.consumers;
            let consumer = consumers
                .entry(spec.name.to_string())
                .or_insert_with(|| Consumer::new(spec.clone()));
            let limit = consumer.spec.max_ack_pending;
            consumer.spec = spec.clone();
            if spec.keeps_limit {
                consumer.spec.max_ack_pending = limit;
            }
        }
        Ok(())
    }

    /// How many deliveries nobody has ended, and whether that is all that may be.
    pub(super) fn in_hand(&self, spec: &ConsumerSpec) -> Result<(usize, bool), BusError> {
        let consumer = self.stream(spec.stream)?.consumers.get(&*spec.name);
        Ok(consumer.map_or((0, false), |consumer| {
            (consumer.in_hand(), consumer.is_at_limit())
        }))
    }

    fn make(&mut self, name: &str, subjects: &[String], now: Timestamp) -> &mut Stream {
        let stream = self
            .streams
            .entry(name.to_owned())
            .or_insert_with(|| Stream {
                store: Store::new(Vec::new(), now),
                work_queue: false,
                consumers: BTreeMap::new(),
            });
        stream.store.subjects = subjects.to_vec();
        stream
    }

    pub(super) fn stream(&self, name: &str) -> Result<&Stream, BusError> {
        self.streams.get(name).ok_or_else(|| not_found(name))
    }

    fn stream_mut(&mut self, name: &str) -> Result<&mut Stream, BusError> {
        self.streams.get_mut(name).ok_or_else(|| not_found(name))
    }

    pub(super) fn publish(
        &mut self,
        message: &RawMessage,
        now: Timestamp,
    ) -> Result<Receipt, PublishError> {
        let owner = self
            .streams
            .values_mut()
            .find(|stream| stream.store.captures(&message.subject));
        match owner {
            Some(stream) => stream.store.publish(message, now),
            None => Err(PublishError::Bus(BusError::NoJetStream {
                what: format!("publish on {}", message.subject),
            })),
        }
    }

    pub(super) fn deliver(
        &mut self,
        spec: &ConsumerSpec,
        now: Timestamp,
    ) -> Result<Option<(RawStored, u64)>, BusError> {
        let stream = self.stream_mut(spec.stream)?;
        let consumer = stream.consumers.get_mut(&*spec.name);
        let consumer = consumer.ok_or_else(|| not_found(&spec.name))?;
        Ok(consumer.deliver(&stream.store, now))
    }

    pub(super) fn ack(
        &mut self,
        spec: &ConsumerSpec,
        sequence: Sequence,
        ack: Ack,
        now: Timestamp,
    ) {
        let Ok(stream) = self.stream_mut(spec.stream) else {
            return;
        };
        let ended = stream
            .consumers
            .get_mut(&*spec.name)
            .is_some_and(|consumer| consumer.ack(sequence, ack, now));
        if ended && stream.work_queue {
            stream.store.remove(sequence);
        }
        if ended && ack == Ack::Terminated {
            self.advise("MSG_TERMINATED", spec, sequence, 0, now);
        }
    }

    /// Lets everything happen that is due. Whether anything did.
    pub(super) fn tick(&mut self, now: Timestamp) -> bool {
        let mut any = false;
        let mut given_up = Vec::new();
        for stream in self.streams.values_mut() {
            any |= stream.store.expire(now);
            for consumer in stream.consumers.values_mut() {
                for (sequence, times) in consumer.give_up(&stream.store, now) {
                    given_up.push((consumer.spec.clone(), sequence, times));
                }
            }
        }
        for (spec, sequence, times) in given_up {
            self.advise("MAX_DELIVERIES", &spec, sequence, times, now);
            any = true;
        }
        any
    }

    /// When something happens by itself next. What is due already waits for a pull, not for time.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.streams
            .values()
            .flat_map(|stream| {
                let consumers = stream.consumers.values().flat_map(Consumer::due);
                consumers.chain(stream.store.next_expiry())
            })
            .filter(|due| *due > now)
            .min()
    }

    fn advise(
        &mut self,
        kind: &str,
        spec: &ConsumerSpec,
        sequence: Sequence,
        deliveries: u64,
        now: Timestamp,
    ) {
        let advisory = json!({
            "type": format!("io.nats.jetstream.advisory.v1.{}", kind.to_lowercase()),
            "stream": spec.stream,
            "consumer": spec.name,
            "stream_seq": sequence.0,
            "deliveries": deliveries,
        });
        let message = RawMessage {
            subject: format!(
                "$JS.EVENT.ADVISORY.CONSUMER.{kind}.{}.{}",
                spec.stream, spec.name
            ),
            headers: BTreeMap::new(),
            payload: advisory.to_string().into(),
        };
        // Advisories are lost where no stream takes them, as with NATS.
        let _stored = self.publish(&message, now);
    }
}

fn not_found(name: &str) -> BusError {
    BusError::NotFound {
        what: name.to_owned(),
        description: "it was not applied".to_owned(),
    }
}
