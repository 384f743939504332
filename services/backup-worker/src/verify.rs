//! Stored backups that somebody wants to be sure of: read whole, every byte compared with its digest, and the WAL
//! that makes them consistent too. Nothing is written.
//!
//! What must stay true: of a backup that is let go nothing is told, because what is missing then is no damage; and what
//! is told is never the last word on a backup that has not ended. The verdict is published over the event that was last
//! when both were looked at.

use async_trait::async_trait;
use bus::{BusError, Delivery, FenceError, Handler, Outcome, Outgoing, Sequence};
use events::command::BackupVerify;
use events::event::{BackupVerified, RefusalCode, Refused};
use events::{BackupId, Command, CommandId, Event, MessageId, subject};
use repository::{ErrorClass, Manifest, Problem, RepositoryError, VerifyReport};
use tokio::time::Instant;

use crate::attempt::World;
use crate::pulse::Pulse;
use crate::takeover::{Takeover, decide};

/// Problems that an event names.
const NAMED_PROBLEMS: usize = 100;
/// Deliveries, half an hour and what reading takes, after which a store that does not answer ends a verification.
const MOST_DELIVERIES: u64 = 30;
/// The same, of a store that refuses.
const MOST_REFUSED: u64 = 5;
/// Others may say something of the backup at the same time; so often it is looked anew.
const MOST_ATTEMPTS: u32 = 16;

/// The consumer of `backup.verify`.
pub(crate) struct Verifications {
    pub(crate) world: World,
}

#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error("the repository could not be asked")]
    Repository(#[from] RepositoryError),
    #[error("the bus failed")]
    Bus(#[from] BusError),
    #[error("backup {0} is stored, but that was not announced yet")]
    NotAnnounced(BackupId),
    #[error("others speak about backup {0} all the time")]
    Busy(BackupId),
}

impl VerifyError {
    /// Whether reading it all once more is of no use.
    fn is_final(&self, attempt: u64) -> bool {
        match self {
            VerifyError::Repository(error) if error.class() == ErrorClass::Transient => {
                attempt >= MOST_DELIVERIES
            }
            VerifyError::Repository(_) => attempt >= MOST_REFUSED,
            VerifyError::Bus(_) | VerifyError::NotAnnounced(_) | VerifyError::Busy(_) => false,
        }
    }
}

#[async_trait]
impl Handler<Command> for Verifications {
    async fn handle(&self, delivery: &Delivery<Command>) -> Outcome {
        let id = delivery.envelope.id.as_str().parse::<CommandId>();
        let (Command::BackupVerify(wanted), Ok(id)) = (&delivery.envelope.message, id) else {
            return Outcome::Reject {
                reason: "not a request to verify a backup".to_owned(),
            };
        };
        let result = match Box::pin(self.verify(delivery, wanted, id)).await {
            Err(error) if error.is_final(delivery.attempt) => {
                let refused = impossible(wanted, id, &error);
                self.refuse(wanted, id, refused).await
            }
            other => other,
        };
        match result {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Retry {
                after: std::time::Duration::from_secs(1 << delivery.attempt.clamp(1, 6)),
                reason: service::run::chain(&error),
            },
        }
    }
}

/// What was last said of a stored backup.
enum Head {
    /// It is let go.
    Gone,
    /// It is there, and this is the event.
    At(Sequence),
}

impl Verifications {
    #[tracing::instrument(skip_all, fields(instance = %wanted.instance, backup = %wanted.backup_id))]
    async fn verify(
        &self,
        delivery: &Delivery<Command>,
        wanted: &BackupVerify,
        id: CommandId,
    ) -> Result<(), VerifyError> {
        let repository = &self.world.repository;
        let reader = repository.reader(&wanted.instance, &wanted.branch);
        let begun = Instant::now();
        let manifest = match reader.manifest(wanted.backup_id).await {
            Ok(manifest) => Ok(manifest),
            Err(error) if error.is_absent() => {
                return self.refuse(wanted, id, not_found(wanted, id)).await;
            }
            Err(error) if error.class() == ErrorClass::Corrupt => Err(error),
            Err(error) => return Err(error.into()),
        };
        if let Head::Gone = self.head(wanted).await? {
            return self.refuse(wanted, id, not_found(wanted, id)).await;
        }
        let verdict = match manifest {
            Ok(manifest) => {
                let pulse = Pulse::new(&delivery.progress);
                let on = |_| pulse.advance();
                let report = pulse.during(reader.verify(&manifest, &on)).await?;
                self.verified(wanted, id, &manifest, report, begun)
            }
            Err(error) => Event::BackupVerified(BackupVerified {
                problems: vec![service::run::chain(&error)],
                ..self.outcome(wanted, id, begun)
            }),
        };
        self.tell(wanted, id, verdict).await
    }

    /// Tells the verdict, unless the backup is let go meanwhile.
    async fn tell(
        &self,
        wanted: &BackupVerify,
        id: CommandId,
        verdict: Event,
    ) -> Result<(), VerifyError> {
        let fence = subject::backup_fence(&wanted.instance, &wanted.branch, wanted.backup_id);
        for _ in 0..MOST_ATTEMPTS {
            let Head::At(head) = self.head(wanted).await? else {
                return self.refuse(wanted, id, not_found(wanted, id)).await;
            };
            let outgoing = self.outgoing(wanted, id, verdict.clone());
            match self
                .world
                .bus
                .publish_expecting(outgoing, &fence, head)
                .await
            {
                Ok(_sequence) => return Ok(()),
                // An earlier delivery told it, and something else was said since.
                Err(FenceError::Bus(BusError::MessageIdReused { .. })) => return Ok(()),
                Err(FenceError::Lost { .. }) => {}
                Err(FenceError::Bus(error)) => return Err(error.into()),
            }
        }
        Err(VerifyError::Busy(wanted.backup_id))
    }

    async fn refuse(
        &self,
        wanted: &BackupVerify,
        id: CommandId,
        refused: Event,
    ) -> Result<(), VerifyError> {
        let outgoing = self.outgoing(wanted, id, refused);
        let _sequence = self.world.bus.publish(outgoing).await?;
        Ok(())
    }

    fn outgoing(&self, wanted: &BackupVerify, id: CommandId, event: Event) -> Outgoing<Event> {
        let message = MessageId::new(format!("{}:{id}", event.type_name()));
        Outgoing::new(event, message, self.world.clock.now())
            .correlated(wanted.backup_id)
            .caused_by(id)
    }

    /// Fails while a stored backup has no end yet.
    async fn head(&self, wanted: &BackupVerify) -> Result<Head, VerifyError> {
        let BackupVerify {
            instance,
            branch,
            backup_id,
        } = wanted;
        // In this order: a sweep that is over has left the document, and said that the backup has expired.
        let document = self.world.bus.instances().get(instance).await?;
        let sweep = document
            .as_ref()
            .and_then(|(document, _)| document.sweeps.get(branch));
        if sweep.is_some_and(|sweep| sweep.backups.contains(backup_id)) {
            return Ok(Head::Gone);
        }
        let fence = subject::backup_fence(instance, branch, *backup_id);
        let Some(last) = self.world.bus.last_on(&fence).await? else {
            return Ok(Head::At(Sequence::NONE));
        };
        let message = &last.envelope.message;
        match decide(Some((last.sequence, message))) {
            Takeover::Attempt { .. } => Err(VerifyError::NotAnnounced(*backup_id)),
            Takeover::Ended if matches!(message, Event::BackupExpired(_)) => Ok(Head::Gone),
            Takeover::Ended => Ok(Head::At(last.sequence)),
        }
    }

    fn verified(
        &self,
        wanted: &BackupVerify,
        id: CommandId,
        manifest: &Manifest,
        report: VerifyReport,
        begun: Instant,
    ) -> Event {
        let sound = report.is_sound();
        if !sound {
            tracing::error!(
                problems = report.problem_count,
                "a stored backup is not what was stored"
            );
        }
        let problems = report.problems.iter().take(NAMED_PROBLEMS).map(sentence);
        Event::BackupVerified(BackupVerified {
            sound,
            problems: problems.collect(),
            files: manifest.totals.files,
            bytes: manifest.totals.logical_bytes,
            ..self.outcome(wanted, id, begun)
        })
    }

    /// Of a backup about which nothing good is known.
    fn outcome(&self, wanted: &BackupVerify, id: CommandId, begun: Instant) -> BackupVerified {
        BackupVerified {
            backup_id: wanted.backup_id,
            instance: wanted.instance.clone(),
            branch: wanted.branch.clone(),
            command_id: id,
            sound: false,
            problems: Vec::new(),
            files: 0,
            bytes: 0,
            verified_at: self.world.clock.now(),
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

fn sentence(problem: &Problem) -> String {
    match &problem.file {
        Some(file) => format!("{file}: {}", problem.reason),
        // Most say themselves which object they are about.
        None if problem.reason.starts_with(&problem.key) => problem.reason.clone(),
        None => format!("{}: {}", problem.key, problem.reason),
    }
}

fn not_found(wanted: &BackupVerify, id: CommandId) -> Event {
    let BackupVerify {
        instance,
        branch,
        backup_id,
    } = wanted;
    Event::BackupRefused(Refused {
        instance: instance.clone(),
        branch: branch.clone(),
        command_id: id,
        code: RefusalCode::NotFound,
        message: format!("branch {branch} of {instance} has no stored backup {backup_id}"),
        hint: format!("See `zektor backup list {instance}`."),
    })
}

/// Nothing is known about the backup.
fn impossible(wanted: &BackupVerify, id: CommandId, error: &VerifyError) -> Event {
    let (instance, backup_id) = (&wanted.instance, wanted.backup_id);
    Event::BackupRefused(Refused {
        instance: instance.clone(),
        branch: wanted.branch.clone(),
        command_id: id,
        code: RefusalCode::Invalid,
        message: format!(
            "backup {backup_id} could not be read to its end: {}",
            service::run::chain(error)
        ),
        hint: format!(
            "See to the repository, and then ask again: `zektor backup verify {instance} {backup_id}`."
        ),
    })
}

#[cfg(test)]
mod tests;
