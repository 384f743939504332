//! The scheduler's part in a restore, played: claims, registration, deletion, as `services/scheduler` decides them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use bus::{Bus, Decision, Delivery, Handler, Outcome, Outgoing};
use events::command::BranchRegister;
use events::document::{ActiveBranch, Branch};
use events::event::{Event, RefusalCode, Refused};
use events::{BranchName, Command, CommandId, InstanceDocument, MessageId, RestoreId, topology};
use service::{Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;

use crate::world::instance;

/// Registers what is claimed, and refuses what is not, until `shutdown`.
pub(crate) fn play(bus: &Bus, shutdown: &CancellationToken) {
    let (bus, shutdown) = (bus.clone(), shutdown.clone());
    drop(tokio::spawn(async move {
        let spec = topology::scheduler_commands();
        let handler = Arc::new(Scheduler(bus.clone()));
        let _ = bus.consume(&spec, 1, handler, shutdown).await;
    }));
}

/// Claims a name, as `restore.create` does.
pub(crate) async fn claim(bus: &Bus, branch: &BranchName, restore_id: RestoreId) -> Result<()> {
    change(bus, |document| {
        let claim = Branch::Restoring {
            restore_id,
            source: None,
        };
        let _ = document.branches.entry(branch.clone()).or_insert(claim);
    })
    .await
}

/// Takes a name away, as the end of a restore does.
pub(crate) async fn forget(bus: &Bus, branch: &BranchName) -> Result<()> {
    change(bus, |document| drop(document.branches.remove(branch))).await
}

/// Marks a branch, as `branch.delete` does.
pub(crate) async fn mark_deleting(bus: &Bus, branch: &BranchName) -> Result<()> {
    change(bus, |document| {
        if let Some(Branch::Active(active)) = document.branches.get(branch).cloned() {
            let _ = document
                .branches
                .insert(branch.clone(), Branch::Deleting(active));
        }
    })
    .await
}

/// The branch in the document.
pub(crate) async fn branch_of(bus: &Bus, branch: &BranchName) -> Result<Option<Branch>> {
    let document = bus.instances().get(&instance()).await?;
    let (mut document, _) = document.context("no document")?;
    Ok(document.branches.remove(branch))
}

/// Changes the document.
pub(crate) async fn change(bus: &Bus, change: impl Fn(&mut InstanceDocument)) -> Result<()> {
    let (instances, instance) = (bus.instances(), instance());
    let changed = instances.update(&instance, |before| match before {
        Some(before) => {
            let mut after = before.clone();
            change(&mut after);
            Decision::Put(Box::new(after), ())
        }
        None => Decision::Keep(()),
    });
    Ok(changed.await?)
}

struct Scheduler(Bus);

#[async_trait]
impl Handler<Command> for Scheduler {
    async fn handle(&self, delivery: &Delivery<Command>) -> Outcome {
        if let Command::BranchRegister(register) = &delivery.envelope.message {
            let id = delivery.envelope.id.as_str().parse().expect("an id");
            self.register(register, CommandId(id))
                .await
                .expect("a registration");
        }
        Outcome::Done
    }
}

impl Scheduler {
    async fn register(&self, register: &BranchRegister, id: CommandId) -> Result<()> {
        let open = ActiveBranch {
            dsn: register.dsn.clone(),
            system_identifier: register.system_identifier,
            timeline: register.timeline,
            server_version: register.server_version,
            wal_segment_size: register.wal_segment_size,
            origin: Some(register.origin.clone()),
            size: Some(register.size),
            created_at: register.created_at,
            archive_mode: events::ArchiveMode::default(),
            disk_risk: events::DiskRiskPolicy::default(),
        };
        let claim = Branch::Restoring {
            restore_id: register.origin.restore_id,
            source: None,
        };
        let instances = self.0.instances();
        let updated = instances.update(&register.instance, |before| {
            let Some(before) = before else {
                return Decision::Keep(false);
            };
            match before.branches.get(&register.branch) {
                Some(held) if *held == claim => {
                    let mut after = before.clone();
                    let open = Branch::Active(open.clone());
                    let _ = after.branches.insert(register.branch.clone(), open);
                    Decision::Put(Box::new(after), true)
                }
                Some(Branch::Active(active)) => {
                    Decision::Keep(active.origin.as_ref() == Some(&register.origin))
                }
                _ => Decision::Keep(false),
            }
        });
        if updated.await? {
            return Ok(());
        }
        let refused = Event::BranchRefused(Refused {
            instance: register.instance.clone(),
            branch: register.branch.clone(),
            command_id: id,
            code: RefusalCode::NameTaken,
            message: "the name is not claimed by this restore".to_owned(),
            hint: String::new(),
        });
        let message = MessageId::new(format!("branch.refused:{}", id.0));
        let outgoing = Outgoing::new(refused, message, SystemClock.now());
        let _ = self.0.publish(outgoing).await?;
        Ok(())
    }
}
