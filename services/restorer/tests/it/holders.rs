//! Two restorers with a compute directory each: an order goes to the one that has the branch.

use anyhow::Result;
use chrono::TimeDelta;
use events::RestoreTarget;
use events::command::{BranchStart, BranchStop};
use events::event::{BranchDeletionRequested, Event};
use events::subject::restorer_holder;
use restorer::branches::Given;
use restorer::compute::{Address, Compute as _, LocalCompute, ServerState, compute_account};
use restorer::error::RestoreError;
use testkit::postgres::PgVersion;
use testkit::wait_until;
use tokio_util::sync::CancellationToken;

use crate::life::given;
use crate::world::{PATIENCE, World, instance};

#[tokio::test]
async fn an_order_waits_for_the_restorer_that_has_the_branch() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let finished = world.restore("b", RestoreTarget::Latest).await?;
    let branch = finished.register.branch.clone();
    let other = world.another("second", Vec::new())?;
    let (bus, holder) = (&world.restorer.bus, world.compute.holder()?);
    assert_eq!(finished.register.origin.holder.as_ref(), Some(&holder));
    let stop = BranchStop {
        instance: instance(),
        branch: branch.clone(),
    };
    let elsewhere =
        |result: Result<(), RestoreError>| matches!(result, Err(RestoreError::Elsewhere { .. }));
    let refused = async || bus.last_on("zektor.branch.refused.>").await;
    let long_ago = || Given {
        at: given().at - TimeDelta::minutes(5),
        ..given()
    };

    assert!(elsewhere(other.stop(&stop, &given()).await));
    // Its restorer answers: however old the order is, it is only left to it.
    let here = CancellationToken::new();
    let (serving, until, named) = (bus.clone(), here.clone(), holder.clone());
    let task = tokio::spawn(async move {
        let present = move |_, ()| {
            let named = named.clone();
            async move { Ok(named) }
        };
        let subject = restorer_holder(&holder);
        serving
            .serve::<(), String, _, _>(&subject, "restorer", present, until)
            .await
    });
    let subject = restorer_holder(&world.compute.holder()?);
    wait_until("the holder to answer", PATIENCE, async || {
        let asked = bus.request::<_, String>(&subject, &(), PATIENCE).await;
        asked.is_ok()
    })
    .await?;
    assert!(elsewhere(other.stop(&stop, &long_ago()).await));
    assert!(refused().await?.is_none());
    here.cancel();
    task.await??;

    // Nobody is there: it is said.
    let start = BranchStart {
        instance: instance(),
        branch: branch.clone(),
    };
    other.start(&start, &long_ago()).await?;
    let said = refused().await?.map(|said| said.envelope.message);
    match said {
        Some(Event::BranchRefused(refused)) => {
            assert!(refused.message.contains("no restorer runs"), "{refused:?}");
        }
        said => panic!("{said:?}"),
    }
    // A deletion is said as well, and stays to be done.
    crate::scheduler::mark_deleting(bus, &branch).await?;
    let deletion = BranchDeletionRequested {
        instance: instance(),
        branch: branch.clone(),
        purge: false,
        restore_id: None,
    };
    assert!(elsewhere(
        other
            .delete(&deletion, &long_ago(), &bus::Progress::default())
            .await
    ));
    assert!(bus.last_on("zektor.branch.deleted.>").await?.is_none());
    assert_eq!(
        world.compute.state(&world.site("b")).await?,
        ServerState::Ready
    );
    world
        .restorer
        .delete(&deletion, &long_ago(), &bus::Progress::default())
        .await?;
    assert!(bus.last_on("zektor.branch.deleted.>").await?.is_some());
    assert!(!world.root_of("b").exists());
    Ok(())
}

#[tokio::test]
async fn a_branch_is_found_where_it_listens() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let mut restorer = world.another("elsewhere", Vec::new())?;
    let address = Address {
        listen: "127.0.0.2".to_owned(),
        advertise: "127.0.0.2".to_owned(),
    };
    let place = world.place.path().join("elsewhere");
    let compute = LocalCompute::new(place, compute_account("postgres")?, Vec::new()).at(address);
    let compute = std::sync::Arc::new(compute);
    restorer.compute = std::sync::Arc::<LocalCompute>::clone(&compute);
    let request = world.request("b", RestoreTarget::Latest);
    world.publish(&request).await?;
    let progress = bus::Progress::default();
    let ending = Box::pin(restorer.handle(&request, &progress, true)).await;
    let site = compute.site(&instance(), &request.branch);
    let finished = restorer::outcome::FinishedBranch::at(&site)?;
    let asked = match &finished {
        Some(finished) => {
            let uri = world.uri(finished)?;
            assert!(uri.contains("@127.0.0.2:"), "{}", finished.summary.host);
            Some(world.source.psql_as(&uri, "SHOW listen_addresses").await)
        }
        None => None,
    };
    compute.remove(&site).await?;
    assert_eq!(ending, restorer::attempt::Ending::Done);
    assert_eq!(asked.expect("a branch")?, "127.0.0.2");
    assert_eq!(finished.expect("a branch").summary.host, "127.0.0.2");
    Ok(())
}
