//! A branch is complete when its instance has it, and nothing when its claim is lost.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bus::{Outgoing, Progress};
use events::document::Branch;
use events::event::{Event, FailureCause, RefusalCode, Refused};
use events::{CommandId, MessageId, RestoreTarget};
use repository::RepositoryError;
use restorer::attempt::Ending;
use restorer::outcome::FinishedBranch;
use service::{Clock as _, SystemClock};
use testkit::postgres::PgVersion;
use testkit::wait_until;
use uuid::Uuid;

use crate::scheduler;
use crate::world::{PATIENCE, World, alive};

#[tokio::test]
async fn a_restore_is_complete_when_the_document_has_the_branch() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    // The scheduler is down.
    world.over.cancel();
    let request = world.request("b", RestoreTarget::Latest);
    world.publish(&request).await?;
    let (restorer, asked) = (Arc::clone(&world.restorer), request.clone());
    let task = tokio::spawn(async move {
        Box::pin(restorer.handle(&asked, &Progress::default(), false)).await
    });
    wait_until("the command to be sent", PATIENCE, async || {
        world.finished("b").is_ok()
    })
    .await?;
    let finished = world.finished("b")?;
    assert!(!finished.registered);
    assert!(!task.is_finished());
    assert!(!matches!(
        world.last(&request).await?,
        Event::RestoreCompleted(_)
    ));
    // Killed while it waits: the next delivery goes on with what is built.
    task.abort();
    let _ = task.await;
    let server = world.postmaster("b");
    world.restorer.reconcile().await?;
    assert_eq!(world.postmaster("b"), server, "its claim stands");
    let up = tokio_util::sync::CancellationToken::new();
    scheduler::play(&world.restorer.bus, &up);
    let progress = Progress::default();
    let again = Box::pin(world.restorer.handle(&request, &progress, false));
    assert_eq!(tokio::time::timeout(PATIENCE, again).await?, Ending::Done);
    up.cancel();
    assert!(matches!(
        world.last(&request).await?,
        Event::RestoreCompleted(_)
    ));
    assert!(world.finished("b")?.registered);
    assert_eq!(world.postmaster("b"), server);
    let held = scheduler::branch_of(&world.restorer.bus, &request.branch).await?;
    let Some(Branch::Active(active)) = held else {
        panic!("{held:?}")
    };
    assert!(active.origin.unwrap().holder.is_some());
    Ok(())
}

/// What happens to the claim while the branch is built.
enum Loss {
    /// Somebody said that the restore failed.
    Forgotten,
    /// The instance is gone.
    Removed,
    /// The scheduler does not want it, and says why.
    Refused,
}

async fn a_lost_claim(loss: Loss) -> Result<()> {
    let world = World::new(PgVersion::V15).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    world.over.cancel();
    let request = world.request("b", RestoreTarget::Latest);
    world.publish(&request).await?;
    let (restorer, asked) = (Arc::clone(&world.restorer), request.clone());
    let task = tokio::spawn(async move {
        Box::pin(restorer.handle(&asked, &Progress::default(), false)).await
    });
    wait_until("the branch to be built", PATIENCE, async || {
        world.finished("b").is_ok()
    })
    .await?;
    let server = world.postmaster("b").context("no server")?;
    let bus = &world.restorer.bus;
    let repository = &world.restorer.repository;
    let reader = repository.reader(&request.instance, &request.branch);
    assert!(reader.record().await.is_ok());
    match loss {
        Loss::Refused => {
            let refused = Refused {
                instance: request.instance.clone(),
                branch: request.branch.clone(),
                command_id: CommandId(Uuid::new_v5(&request.restore_id.0, b"branch.register")),
                code: RefusalCode::Limit,
                message: "there are too many branches".to_owned(),
                hint: "Delete one.".to_owned(),
            };
            let id = MessageId::new("refused".to_owned());
            let event = Outgoing::new(Event::BranchRefused(refused), id, SystemClock.now());
            let _ = bus.publish(event).await?;
        }
        Loss::Forgotten => scheduler::forget(bus, &request.branch).await?,
        Loss::Removed => {
            let instances = bus.instances();
            let (document, _) = instances
                .get(&request.instance)
                .await?
                .context("no document")?;
            instances
                .update(&document.instance, |_| bus::Decision::Remove(()))
                .await?;
        }
    }
    if !matches!(loss, Loss::Refused) {
        scheduler::play(bus, &tokio_util::sync::CancellationToken::new());
    }
    assert_eq!(tokio::time::timeout(PATIENCE, task).await??, Ending::Done);
    match world.last(&request).await? {
        Event::RestoreFailed(failed) => {
            assert_eq!(failed.cause, FailureCause::Compute);
            let (message, hint) = match loss {
                Loss::Forgotten => ("no longer claimed", "restore again"),
                Loss::Refused => ("too many branches", "Delete one; the branch was removed"),
                Loss::Removed => ("the name is not claimed by this restore", ""),
            };
            assert!(failed.message.contains(message), "{failed:?}");
            assert!(failed.hint.contains(hint), "{failed:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!alive(server));
    assert!(!world.root_of("b").exists());
    let reader = repository.reader(&request.instance, &request.branch);
    let record = RepositoryError::absent_as_none(reader.record().await)?;
    assert_eq!(record, None, "its name is free in the repository too");
    if !matches!(loss, Loss::Removed) {
        scheduler::forget(bus, &request.branch).await?;
        if matches!(loss, Loss::Refused) {
            scheduler::play(bus, &tokio_util::sync::CancellationToken::new());
        }
        let finished = world.restore("b", RestoreTarget::Latest).await?;
        assert!(finished.registered);
    }
    Ok(())
}

#[tokio::test]
async fn a_branch_whose_claim_was_forgotten_is_removed_again() -> Result<()> {
    a_lost_claim(Loss::Forgotten).await
}

#[tokio::test]
async fn a_branch_that_the_scheduler_refused_is_removed_again_with_its_reason() -> Result<()> {
    a_lost_claim(Loss::Refused).await
}

#[tokio::test]
async fn a_branch_whose_instance_was_removed_is_removed_again() -> Result<()> {
    a_lost_claim(Loss::Removed).await
}

#[tokio::test]
async fn what_was_never_registered_and_is_not_wanted_goes_at_the_next_start() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let finished = world.restore("b", RestoreTarget::Latest).await?;
    let unregistered = FinishedBranch {
        registered: false,
        ..finished.clone()
    };
    // Registered after all: only remembered.
    unregistered.store(&world.site("b"))?;
    world.restorer.reconcile().await?;
    assert!(world.finished("b")?.registered);
    // A branch that was part of its instance is never removed here, whatever the document says.
    scheduler::forget(&world.restorer.bus, &finished.register.branch).await?;
    world.restorer.reconcile().await?;
    assert!(world.root_of("b").exists());
    unregistered.store(&world.site("b"))?;
    world.restorer.reconcile().await?;
    assert!(!world.root_of("b").exists());
    Ok(())
}
