//! The commands that the scheduler decides: each ends in an event that names the command as its cause.
//!
//! A command may be delivered twice, to different replicas, at any point: every step is either a
//! compare-and-set, a create-if-absent or a publish with a deterministic id.

mod backup_names;
mod backups;
mod branches;
mod cancellation;
mod drills;
mod instances;
pub(crate) mod manual;
mod marks;
mod moved;
mod names;
mod once;
mod restores;
mod schedules;
mod settings;
mod trial;

pub(crate) use backups::default_wal_keep;

use std::sync::Arc;

use async_trait::async_trait;
use bus::{Bus, BusError, Delivery, Handler, Outcome, Outgoing, Revision, Sequence};
use events::event::Refused;
use events::{
    BranchName, Command, CommandId, Event, InstanceDocument, InstanceName, MessageId, subject,
    topology,
};
use futures::StreamExt as _;
use repository::Repository;
use service::clock::Clock;
use service::seal::MasterKey;

use crate::config::SchedulerConfig;
use crate::refusal::{Refusal, Unfinished, outcome_of};
use crate::slots;

/// What deciding needs of the world.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) bus: Bus,
    pub(crate) repository: Repository,
    pub(crate) master_key: Arc<MasterKey>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: Arc<SchedulerConfig>,
    pub(crate) slots: Arc<slots::Memory>,
    pub(crate) looks: Arc<manual::Looks>,
}

/// The consumer of the scheduler's commands.
pub(crate) struct Commands {
    pub(crate) world: World,
}

/// The command at hand.
#[derive(Debug, Clone)]
struct Given {
    id: CommandId,
    /// Deliveries so far, from 1.
    attempt: u64,
}

#[async_trait]
impl Handler<Command> for Commands {
    async fn handle(&self, delivery: &Delivery<Command>) -> Outcome {
        let id = delivery.envelope.id.as_str();
        let Ok(id) = id.parse::<CommandId>() else {
            return Outcome::Reject {
                reason: format!("command id {id:?} is not a UUID"),
            };
        };
        let given = Given {
            id,
            attempt: delivery.attempt,
        };
        let command = &delivery.envelope.message;
        let result = match self.decide(&given, command).await {
            Err(Unfinished::Refused(refusal)) => self
                .world
                .refuse(&given, command, refusal)
                .await
                .map_err(Unfinished::from),
            other => other,
        };
        match result {
            Ok(()) => Outcome::Done,
            Err(error) => outcome_of(&error, delivery.attempt),
        }
    }
}

impl Commands {
    async fn decide(&self, given: &Given, command: &Command) -> Result<(), Unfinished> {
        let world = &self.world;
        match command {
            Command::InstanceAdd(add) => world.add_instance(given, add).await,
            Command::InstanceRemove(remove) => world.remove_instance(given, remove).await,
            Command::BackupCreate(create) => world.create_backup(given, create).await,
            Command::RestoreCreate(create) => world.create_restore(given, create).await,
            Command::BranchRegister(register) => world.register_branch(given, register).await,
            Command::BranchDelete(delete) => world.delete_branch(given, delete).await,
            Command::InstanceUpdate(update) => world.update_instance(given, update).await,
            Command::ScheduleCreate(create) => world.create_schedule(given, create).await,
            Command::ScheduleUpdate(update) => world.update_schedule(given, update).await,
            Command::ScheduleDelete(delete) => world.delete_schedule(given, delete).await,
            Command::BackupUpdate(update) => world.update_backup(given, update).await,
            Command::BackupHold(hold) => world.hold_backup(given, hold).await,
            Command::BackupRelease(release) => world.release_backup(given, release).await,
            Command::BackupDelete(delete) => world.cancel_or_delete_backup(given, delete).await,
            Command::BackupUndelete(undelete) => world.undelete_backup(given, undelete).await,
            Command::BackupRetry(retry) => world.retry_backup(given, retry).await,
            Command::DrillRun(run) => world.run_drill(given, run).await,
            Command::ExtensionsReinstall(_)
            | Command::BranchStop(_)
            | Command::BranchStart(_)
            | Command::BackupVerify(_) => Err(Unfinished::NotYet(
                "this command belongs to another service".to_owned(),
            )),
        }
    }
}

impl World {
    async fn document(&self, instance: &InstanceName) -> Result<InstanceDocument, Unfinished> {
        match self.bus.instances().get(instance).await? {
            Some((document, _)) if !document.removing => Ok(document),
            _ => Err(Refusal::no_such_instance(instance).into()),
        }
    }

    /// Mirrors the instance's document into the repository. Two that mirror at once may write in any order,
    /// so it is written again until it is what the bus has; and whoever finds that it was removed meanwhile may have
    /// written over the word that it was.
    pub(crate) async fn mirror(&self, instance: &InstanceName) -> Result<(), Unfinished> {
        let mut mirrored: Option<(InstanceDocument, Revision)> = None;
        loop {
            let (there, revision) = self.bus.instances().standing(instance).await?;
            let last = mirrored.take();
            if last.as_ref().is_some_and(|(_, last)| *last == revision) {
                return Ok(());
            }
            let gone = |(document, _)| InstanceDocument {
                removing: true,
                ..document
            };
            let Some(document) = there.or_else(|| last.map(gone)) else {
                return Ok(());
            };
            self.repository.put_instance(&document).await?;
            mirrored = Some((document, revision));
        }
    }

    /// Whether an earlier delivery of this command has told its outcome: on `fence`, or as a refusal. A command that
    /// comes again late, or whose first delivery stood still, must not undo what was decided after it ([`once`]).
    async fn has_told(&self, given: &Given, fence: String) -> Result<bool, Unfinished> {
        let refused = format!("{}.*.refused.*.*.{}", subject::ROOT, given.id);
        let history = self
            .bus
            .history(vec![fence, refused], Sequence::NONE, topology::EVENTS);
        let mut history = history.await?;
        let cause = given.id.to_string();
        while let Some(stored) = history.next().await {
            match stored {
                Ok(stored) if stored.envelope.causation.as_ref() == Some(&cause) => {
                    return Ok(true);
                }
                // Of a newer version; not an outcome that this one could have told.
                Ok(_) | Err(BusError::Undecodable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Publishes an event about `correlation` (a backup, a restore), caused by the command. `id` makes it
    /// the same message when it is published again.
    async fn announce(
        &self,
        given: &Given,
        id: MessageId,
        correlation: Option<String>,
        event: Event,
    ) -> Result<(), BusError> {
        let _sequence = self
            .bus
            .publish(self.outgoing(given, id, correlation, event))
            .await?;
        Ok(())
    }

    fn outgoing(
        &self,
        given: &Given,
        id: MessageId,
        correlation: Option<String>,
        event: Event,
    ) -> Outgoing<Event> {
        let outgoing = Outgoing::new(event, id, self.clock.now()).caused_by(given.id.to_string());
        match correlation {
            Some(correlation) => outgoing.correlated(correlation),
            None => outgoing,
        }
    }

    async fn refuse(
        &self,
        given: &Given,
        command: &Command,
        refusal: Refusal,
    ) -> Result<(), BusError> {
        let (instance, branch) = named_by(command);
        let refused = refusal.into_event(instance, branch, given.id);
        tracing::info!(
            instance = %refused.instance, branch = %refused.branch, command = command.type_name(),
            reason = refused.message, "command refused"
        );
        let event = refusal_event(command, refused);
        let id = MessageId::new(format!("{}:{}", event.type_name(), given.id));
        self.announce(given, id, Some(given.id.to_string()), event)
            .await
    }
}

fn named_by(command: &Command) -> (InstanceName, BranchName) {
    match command {
        Command::InstanceAdd(add) => (add.instance.clone(), BranchName::main()),
        Command::InstanceRemove(remove) => (remove.instance.clone(), BranchName::main()),
        Command::BackupCreate(create) => (create.instance.clone(), create.branch.clone()),
        Command::RestoreCreate(create) => (create.instance.clone(), create.branch.clone()),
        Command::BranchRegister(register) => (register.instance.clone(), register.branch.clone()),
        Command::BranchDelete(delete) => (delete.instance.clone(), delete.branch.clone()),
        Command::ExtensionsReinstall(wanted) => (wanted.instance.clone(), wanted.branch.clone()),
        Command::BranchStop(stop) => (stop.instance.clone(), stop.branch.clone()),
        Command::BranchStart(start) => (start.instance.clone(), start.branch.clone()),
        Command::InstanceUpdate(update) => (update.instance.clone(), BranchName::main()),
        Command::ScheduleCreate(create) => (create.instance.clone(), create.branch.clone()),
        Command::ScheduleUpdate(update) => (update.instance.clone(), BranchName::main()),
        Command::ScheduleDelete(delete) => (delete.instance.clone(), BranchName::main()),
        Command::BackupUpdate(update) => (update.instance.clone(), update.branch.clone()),
        Command::BackupHold(hold) => (hold.instance.clone(), hold.branch.clone()),
        Command::BackupRelease(release) => (release.instance.clone(), release.branch.clone()),
        Command::BackupDelete(delete) => (delete.instance.clone(), delete.branch.clone()),
        Command::BackupUndelete(undelete) => (undelete.instance.clone(), undelete.branch.clone()),
        Command::BackupRetry(retry) => (retry.instance.clone(), retry.branch.clone()),
        Command::BackupVerify(verify) => (verify.instance.clone(), verify.branch.clone()),
        Command::DrillRun(run) => (run.instance.clone(), run.branch.clone()),
    }
}

fn refusal_event(command: &Command, refused: Refused) -> Event {
    match command {
        Command::InstanceAdd(_) | Command::InstanceRemove(_) | Command::InstanceUpdate(_) => {
            Event::InstanceRefused(refused)
        }
        Command::ScheduleCreate(_) | Command::ScheduleUpdate(_) | Command::ScheduleDelete(_) => {
            Event::ScheduleRefused(refused)
        }
        Command::BackupCreate(_)
        | Command::BackupUpdate(_)
        | Command::BackupHold(_)
        | Command::BackupRelease(_)
        | Command::BackupDelete(_)
        | Command::BackupUndelete(_)
        | Command::BackupRetry(_)
        | Command::BackupVerify(_) => Event::BackupRefused(refused),
        Command::DrillRun(_) => Event::DrillRefused(refused),
        Command::RestoreCreate(_) => Event::RestoreRefused(refused),
        Command::BranchRegister(_)
        | Command::BranchDelete(_)
        | Command::ExtensionsReinstall(_)
        | Command::BranchStop(_)
        | Command::BranchStart(_) => Event::BranchRefused(refused),
    }
}
