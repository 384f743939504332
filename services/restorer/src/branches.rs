//! The branches that run here: started, stopped, removed, and brought back after a restart of the restorer.

mod extensions;
mod purge;
mod reach;

use std::fs;
use std::time::Duration;

use bus::Progress;
use events::command::{BranchStart, BranchStop};
use events::document::Branch;
use events::event::{
    BranchDeleted, BranchDeletionRequested, BranchStarted, BranchStopped, Event, RefusalCode,
    Refused,
};
use events::{BranchName, CommandId, InstanceName, MessageId, Timestamp};
use futures::StreamExt as _;
use tokio::time::Instant;
use uuid::Uuid;

use self::purge::Doomed;
use crate::attempt::registration::{self, Standing};
use crate::compute::{ComputeError, Programs, ServerState, Stopping, server_log_end};
use crate::error::RestoreError;
use crate::outcome::{self, FinishedBranch};
use crate::restorer::Restorer;
use crate::site::Site;

/// A branch may have to recover from a crash first.
const READY: Duration = Duration::from_secs(120);
/// A lock that is not had within this time is held by somebody who means it.
const HELD: Duration = Duration::from_secs(1);
/// Starting servers read a lot.
const STARTS_AT_ONCE: usize = 4;
const LOOK: Duration = Duration::from_millis(50);

/// An order about a branch: a command or an event.
#[derive(Clone, Debug)]
pub struct Given {
    /// Its id; what is said about it has ids that follow from this one.
    pub id: MessageId,
    /// When it was given.
    pub at: Timestamp,
}

impl Restorer {
    /// Starts a server and returns when it accepts connections.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_server(
        &self,
        site: &Site,
        programs: &Programs,
        port: u16,
    ) -> Result<(), ComputeError> {
        self.compute.start(site, programs, port).await?;
        let deadline = Instant::now() + READY;
        loop {
            match self.compute.state(site).await? {
                ServerState::Ready => return Ok(()),
                ServerState::Down => {
                    let log = server_log_end(site);
                    return Err(ComputeError::ServerEnded {
                        during: "starting",
                        log,
                    });
                }
                ServerState::Busy | ServerState::Standby => {}
            }
            if Instant::now() >= deadline {
                return Err(ComputeError::Timeout {
                    what: "start",
                    seconds: READY.as_secs(),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn start_branch(&self, site: &Site, branch: &FinishedBranch) -> Result<(), ComputeError> {
        let programs = self.compute.programs(branch.major).await?;
        self.start_server(site, &programs, branch.port).await
    }

    /// Stops a branch's server and keeps its files.
    ///
    /// # Errors
    /// It does not stop, the bus failed, or [`RestoreError::Elsewhere`].
    pub async fn stop(&self, order: &BranchStop, given: &Given) -> Result<(), RestoreError> {
        let (instance, branch) = (&order.instance, &order.branch);
        if !self.reaches(instance, branch, given).await? {
            return Ok(());
        }
        let site = self.compute.site(instance, branch);
        let _lock = self.compute.lock(&site).await?;
        if FinishedBranch::at(&site)?.is_none() {
            return self.not_ours(instance, branch, given).await;
        }
        let mark = site.stopped_file();
        fs::write(&mark, b"").map_err(ComputeError::file("write", &mark))?;
        self.compute.stop(&site, Stopping::Fast).await?;
        let (instance, branch) = (instance.clone(), branch.clone());
        let event = Event::BranchStopped(BranchStopped { instance, branch });
        self.say(event, given).await
    }

    /// Starts a branch's server again.
    ///
    /// # Errors
    /// It does not start, the bus failed, or [`RestoreError::Elsewhere`].
    pub async fn start(&self, order: &BranchStart, given: &Given) -> Result<(), RestoreError> {
        let (instance, branch) = (&order.instance, &order.branch);
        if !self.reaches(instance, branch, given).await? {
            return Ok(());
        }
        let site = self.compute.site(instance, branch);
        let _lock = self.compute.lock(&site).await?;
        let Some(finished) = FinishedBranch::at(&site)? else {
            return self.not_ours(instance, branch, given).await;
        };
        self.start_branch(&site, &finished).await?;
        let mark = site.stopped_file();
        if mark.exists() {
            fs::remove_file(&mark).map_err(ComputeError::file("remove", &mark))?;
        }
        let (instance, branch) = (instance.clone(), branch.clone());
        let event = Event::BranchStarted(BranchStarted { instance, branch });
        self.say(event, given).await
    }

    /// Removes a branch's server and files; one that is gone already is only announced. The slot goes with the
    /// server.
    ///
    /// # Errors
    /// It cannot be removed, the bus failed, or [`RestoreError::Elsewhere`].
    pub async fn delete(
        &self,
        deletion: &BranchDeletionRequested,
        given: &Given,
        progress: &Progress,
    ) -> Result<(), RestoreError> {
        let (instance, branch) = (&deletion.instance, &deletion.branch);
        let Doomed::Yes(life) = self.doomed(instance, branch).await? else {
            return Ok(());
        };
        if life.is_some_and(|life| deletion.restore_id.is_some_and(|meant| meant != life)) {
            tracing::warn!(%instance, %branch, "an order to delete the branch that had this name before is not followed");
            return Ok(());
        }
        let life = life.or(deletion.restore_id);
        if !self.reaches(instance, branch, given).await? {
            // Said; and still to be done, when its holder is back.
            let holder = "a restorer that does not answer".to_owned();
            return Err(RestoreError::Elsewhere { holder });
        }
        let site = self.compute.site(instance, branch);
        let _lock = self.compute.lock(&site).await?;
        // Whoever had the lock may have deleted it, and made it anew.
        if !self.still_doomed(instance, branch, life).await? {
            return Ok(());
        }
        self.compute.remove(&site).await?;
        if deletion.purge && !self.purge(instance, branch, life, progress).await? {
            return Ok(());
        }
        let (instance, branch) = (instance.clone(), branch.clone());
        let event = Event::BranchDeleted(BranchDeleted {
            instance,
            branch,
            restore_id: life,
        });
        self.say(event, given).await
    }

    async fn not_ours(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        given: &Given,
    ) -> Result<(), RestoreError> {
        let message = format!("branch {branch} of instance {instance} does not run under zektor");
        let hint = "only restored branches are run by zektor; see `zektor branch list`";
        self.refuse_order(
            instance,
            branch,
            given,
            (RefusalCode::NotFound, message, hint),
        )
        .await
    }

    async fn refuse_order(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        given: &Given,
        (code, message, hint): (RefusalCode, String, &str),
    ) -> Result<(), RestoreError> {
        let refused = Refused {
            instance: instance.clone(),
            branch: branch.clone(),
            command_id: CommandId(given.id.as_str().parse().unwrap_or_default()),
            code,
            message,
            hint: hint.to_owned(),
        };
        self.say(Event::BranchRefused(refused), given).await
    }

    /// The same cause has the same effect under the same id.
    async fn say(&self, event: Event, given: &Given) -> Result<(), RestoreError> {
        let cause = &given.id;
        let name = format!("{cause}/{}", event.type_name());
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes());
        let outgoing = bus::Outgoing::new(event, MessageId::new(id.to_string()), self.clock.now());
        let _ = self
            .bus
            .publish(outgoing.caused_by(cause).correlated(cause))
            .await?;
        Ok(())
    }

    /// Brings every branch here to where it should be: servers that should run are started, the remains of
    /// restores that are over are removed. A branch that cannot be started is logged, and does not keep the
    /// others from it.
    ///
    /// # Errors
    /// The sites cannot be listed.
    pub async fn reconcile(&self) -> Result<(), RestoreError> {
        let sites = futures::stream::iter(self.compute.sites().await?);
        let each = sites.for_each_concurrent(STARTS_AT_ONCE, async |site| {
            if let Err(error) = self.reconcile_site(&site).await {
                tracing::error!(
                    instance = %site.instance,
                    branch = %site.branch,
                    error = service::run::chain(&error),
                    "a branch cannot be brought back"
                );
            }
        });
        each.await;
        Ok(())
    }

    async fn reconcile_site(&self, site: &Site) -> Result<(), RestoreError> {
        let _lock = self.compute.lock(site).await?;
        if let Some(mut finished) = FinishedBranch::at(site)? {
            if !finished.registered {
                match registration::look(&self.bus, &finished).await? {
                    Standing::Registered => {
                        finished.registered = true;
                        finished.store(site)?;
                    }
                    // Its request comes again, if nobody has given it up.
                    Standing::Awaited => {}
                    Standing::Lost(loss) => {
                        tracing::warn!(
                            instance = %site.instance, branch = %site.branch, reason = loss.reason,
                            "removing a branch that never became part of its instance"
                        );
                        return self.remove_lost(site, &finished, &loss).await;
                    }
                }
            }
            let stopped = site.stopped_file().exists();
            if !stopped && self.compute.state(site).await? == ServerState::Down {
                tracing::info!(instance = %site.instance, branch = %site.branch, "starting a branch");
                self.start_branch(site, &finished).await?;
            }
            return Ok(());
        }
        // A directory without our plan is not ours to remove.
        let Some(plan) = outcome::stored_plan(site)? else {
            return Ok(());
        };
        let document = self.bus.instances().get(&site.instance).await?;
        let branch = document.and_then(|(mut document, _)| document.branches.remove(&site.branch));
        let goes_on = matches!(
            branch,
            Some(Branch::Restoring { restore_id, .. }) if restore_id == plan.restore_id
        );
        if !goes_on {
            tracing::info!(site = %site.root().display(), "removing the remains of a restore");
            self.compute.remove(site).await?;
        }
        Ok(())
    }

    /// Stops every server here: those of unfinished restores in any case, of branches if `branches`.
    ///
    /// # Errors
    /// The sites cannot be listed.
    pub async fn stop_servers(&self, branches: bool) -> Result<(), RestoreError> {
        let sites = self.compute.sites().await?;
        let stops = sites.iter().map(async |site| {
            let finished = FinishedBranch::at(site).ok().flatten().is_some();
            let how = if finished {
                Stopping::Fast
            } else {
                Stopping::Immediate
            };
            if finished && !branches {
                return;
            }
            // A site that is held is another restorer's work.
            let lock = tokio::time::timeout(HELD, self.compute.lock(site)).await;
            let Ok(Ok(_lock)) = lock else { return };
            if let Err(error) = self.compute.stop(site, how).await {
                tracing::error!(
                    site = %site.root().display(),
                    error = &error as &dyn std::error::Error,
                    "a server cannot be stopped"
                );
            }
        });
        let _ = futures::future::join_all(stops).await;
        Ok(())
    }
}
