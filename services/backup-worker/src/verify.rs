//! Stored backups that somebody wants to be sure of: read whole, every byte compared with its digest, and the WAL
//! that makes them consistent too. Nothing is written.

use async_trait::async_trait;
use bus::{BusError, Delivery, Handler, Outcome, Outgoing};
use events::command::BackupVerify;
use events::event::{BackupVerified, RefusalCode, Refused};
use events::{Command, CommandId, Event, MessageId};
use repository::{ErrorClass, Manifest, Problem, RepositoryError, VerifyReport};
use tokio::time::Instant;

use crate::attempt::World;

/// Problems that an event names.
const NAMED_PROBLEMS: usize = 100;

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
        match Box::pin(self.verify(delivery, wanted, id)).await {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Retry {
                after: std::time::Duration::from_secs(1 << delivery.attempt.clamp(1, 6)),
                reason: service::run::chain(&error),
            },
        }
    }
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
        let progress = delivery.progress.clone();
        let event = match reader.manifest(wanted.backup_id).await {
            Ok(manifest) => {
                let on = move |_| progress.advance();
                let report = reader.verify(&manifest, &on).await?;
                self.verified(wanted, id, &manifest, report, begun)
            }
            Err(error) if error.is_absent() => not_found(wanted, id),
            Err(error) if error.class() == ErrorClass::Transient => return Err(error.into()),
            Err(error) => Event::BackupVerified(BackupVerified {
                problems: vec![service::run::chain(&error)],
                ..self.outcome(wanted, id, begun)
            }),
        };
        let message = MessageId::new(format!("{}:{id}", event.type_name()));
        let outgoing = Outgoing::new(event, message, self.world.clock.now())
            .correlated(wanted.backup_id)
            .caused_by(id);
        let _sequence = self.world.bus.publish(outgoing).await?;
        Ok(())
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

#[cfg(test)]
mod tests;
