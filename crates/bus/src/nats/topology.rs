//! Streams, consumers and buckets: created or updated, read back and compared.
//!
//! Every call is idempotent, so services that start together may all do it. A server that ignored a field
//! is found out by reading back.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::{self, PersistenceMode, RetentionPolicy, StorageType};
use events::topology::{BucketSpec, ConsumerSpec, StreamRetention, StreamSpec};
use serde_json::json;

use super::NatsTransport;
use crate::BusError;
use crate::transport::Topology;

/// How long the marker of an expired key stays, for watchers that were away.
const MARKER_TTL: Duration = Duration::from_secs(60);

impl NatsTransport {
    pub(super) async fn apply_topology(&self, wanted: &Topology) -> Result<(), BusError> {
        for spec in &wanted.streams {
            self.apply_stream("stream", spec.name, self.stream_config(spec))
                .await?;
        }
        for spec in &wanted.buckets {
            self.apply_stream("bucket", spec.name, self.bucket_config(spec))
                .await?;
        }
        for spec in &wanted.consumers {
            self.apply_consumer(spec).await?;
        }
        Ok(())
    }

    fn stream_config(&self, spec: &StreamSpec) -> stream::Config {
        let facts = spec.retention == StreamRetention::Limits;
        stream::Config {
            name: spec.name.to_string(),
            subjects: spec.subjects.clone(),
            retention: match spec.retention {
                StreamRetention::Limits => RetentionPolicy::Limits,
                StreamRetention::WorkQueue => RetentionPolicy::WorkQueue,
            },
            max_age: spec.max_age,
            duplicate_window: spec.duplicate_window,
            // Facts go by age alone; an operator must be able to clear a queue.
            deny_delete: facts,
            deny_purge: facts,
            ..self.common_config()
        }
    }

    fn bucket_config(&self, spec: &BucketSpec) -> stream::Config {
        stream::Config {
            name: format!("KV_{}", spec.name),
            subjects: vec![format!("$KV.{}.>", spec.name)],
            max_messages_per_subject: spec.history,
            discard: stream::DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            duplicate_window: Duration::from_secs(120),
            allow_message_ttl: spec.expiring_keys,
            subject_delete_marker_ttl: spec.expiring_keys.then_some(MARKER_TTL),
            ..self.common_config()
        }
    }

    fn common_config(&self) -> stream::Config {
        stream::Config {
            storage: StorageType::File,
            num_replicas: self.config.replicas,
            allow_direct: true,
            max_bytes: -1,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            max_message_size: -1,
            ..Default::default()
        }
    }

    async fn apply_stream(
        &self,
        kind: &'static str,
        name: &str,
        wanted: stream::Config,
    ) -> Result<(), BusError> {
        let stream = &wanted.name;
        let update = format!("STREAM.UPDATE.{stream}");
        let applied = match self.api::<stream::Info>(&update, &wanted).await {
            Err(BusError::NotFound { .. }) => {
                let create = format!("STREAM.CREATE.{stream}");
                match self.api::<stream::Info>(&create, &wanted).await {
                    // 10058: somebody else was faster; what it made is compared below.
                    Err(BusError::Server { code: 10058, .. }) => Ok(()),
                    other => other.map(drop),
                }
            }
            other => other.map(drop),
        };
        let drift = |difference: String| BusError::Drift {
            kind,
            name: name.to_owned(),
            difference,
        };
        match applied {
            // 10052: the field cannot be changed in place.
            Err(BusError::Server {
                code: 10052,
                description,
                ..
            }) => return Err(drift(description)),
            other => other?,
        }
        let found = self.stream_info(stream).await?.config;
        stream_difference(&wanted, &found).map_or(Ok(()), |difference| Err(drift(difference)))
    }

    /// Creates or updates one durable consumer.
    pub(super) async fn apply_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError> {
        let mut wanted = consumer::Config {
            durable_name: Some(spec.name.to_string()),
            name: Some(spec.name.to_string()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: spec.ack_wait,
            max_deliver: spec.max_deliver,
            max_ack_pending: spec.max_ack_pending,
            filter_subjects: spec.filters.clone(),
            ..Default::default()
        };
        let mut action = "";
        if spec.keeps_limit {
            match self.consumer_info(spec.stream, &spec.name).await {
                Ok(found) => {
                    wanted.max_ack_pending = found.config.max_ack_pending;
                    if consumer_difference(&wanted, &found.config).is_none() {
                        return Ok(());
                    }
                }
                // Made only if it is still absent, so that a limit that somebody else gives it now stays.
                Err(BusError::NotFound { .. }) => action = "create",
                Err(error) => return Err(error),
            }
        }
        let call = format!("CONSUMER.CREATE.{}.{}", spec.stream, spec.name);
        let request = json!({ "stream_name": spec.stream, "config": wanted, "action": action });
        let created: Result<consumer::Info, _> = self.api(&call, &request).await;
        let drift = |difference: String| BusError::Drift {
            kind: "consumer",
            name: spec.name.to_string(),
            difference,
        };
        let found = match created {
            Ok(info) => info.config,
            // 10148: somebody else was faster, with another limit.
            Err(BusError::Server { code: 10148, .. }) if spec.keeps_limit => {
                let found = self.consumer_info(spec.stream, &spec.name).await?.config;
                wanted.max_ack_pending = found.max_ack_pending;
                found
            }
            // 10012 and 10013: exists and cannot be changed in place.
            Err(BusError::Server {
                code: 10012 | 10013,
                description,
                ..
            }) => return Err(drift(description)),
            Err(error) => return Err(error),
        };
        consumer_difference(&wanted, &found).map_or(Ok(()), |difference| Err(drift(difference)))
    }
}

/// What the server has otherwise than it was told, if anything.
fn stream_difference(wanted: &stream::Config, found: &stream::Config) -> Option<String> {
    let subjects = |config: &stream::Config| {
        let subjects: BTreeSet<_> = config.subjects.iter().cloned().collect();
        format!("{subjects:?}")
    };
    first_difference(&[
        ("subjects", subjects(wanted), subjects(found)),
        text("retention", wanted.retention, found.retention),
        text("storage", wanted.storage, found.storage),
        text("max age", wanted.max_age, found.max_age),
        text(
            "duplicate window",
            wanted.duplicate_window,
            found.duplicate_window,
        ),
        text("replicas", wanted.num_replicas, found.num_replicas),
        text("deny delete", wanted.deny_delete, found.deny_delete),
        text("deny purge", wanted.deny_purge, found.deny_purge),
        text(
            "messages per subject",
            wanted.max_messages_per_subject,
            found.max_messages_per_subject,
        ),
        text(
            "message ttl",
            wanted.allow_message_ttl,
            found.allow_message_ttl,
        ),
        text(
            "delete marker ttl",
            wanted.subject_delete_marker_ttl,
            found.subject_delete_marker_ttl,
        ),
        // Acknowledges before the write.
        text(
            "asynchronous persistence",
            false,
            matches!(found.persist_mode, Some(PersistenceMode::Async)),
        ),
    ])
}

fn consumer_difference(wanted: &consumer::Config, found: &consumer::Config) -> Option<String> {
    let filters = |config: &consumer::Config| {
        let mut filters: BTreeSet<_> = config.filter_subjects.iter().cloned().collect();
        if !config.filter_subject.is_empty() {
            let _ = filters.insert(config.filter_subject.clone());
        }
        format!("{filters:?}")
    };
    first_difference(&[
        ("filters", filters(wanted), filters(found)),
        text("ack policy", wanted.ack_policy, found.ack_policy),
        text(
            "deliver policy",
            wanted.deliver_policy,
            found.deliver_policy,
        ),
        text("ack wait", wanted.ack_wait, found.ack_wait),
        text("max deliver", wanted.max_deliver, found.max_deliver),
        text(
            "max ack pending",
            wanted.max_ack_pending,
            found.max_ack_pending,
        ),
        text("backoff", &wanted.backoff, &found.backoff),
    ])
}

fn text<T: std::fmt::Debug>(
    name: &'static str,
    wanted: T,
    found: T,
) -> (&'static str, String, String) {
    (name, format!("{wanted:?}"), format!("{found:?}"))
}

fn first_difference(fields: &[(&str, String, String)]) -> Option<String> {
    fields
        .iter()
        .find(|(_, wanted, found)| wanted != found)
        .map(|(name, wanted, found)| format!("{name} {found} where {wanted} is wanted"))
}
