//! One trace from the decision to the catalog.

use std::collections::BTreeSet;

use anyhow::Result;
use integration::Stack;
use testkit::otlp::{OtlpReceiver, Span};
use testkit::postgres::Postgres;

/// The services that one manual backup passes through.
const ROAD: [&str; 3] = ["zektor-scheduler", "zektor-backup-worker", "zektor-catalog"];

fn services_of_one_trace(spans: &[Span]) -> bool {
    let traces: BTreeSet<_> = spans.iter().map(|span| &span.trace_id).collect();
    traces.into_iter().any(|trace| {
        let in_trace = || spans.iter().filter(|span| span.trace_id == *trace);
        let services: BTreeSet<_> = in_trace().map(|span| span.service.as_str()).collect();
        let stored = ["repository.put_pack", "repository.commit"]
            .iter()
            .all(|name| in_trace().any(|span| span.name == *name));
        stored && ROAD.iter().all(|service| services.contains(service))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_one_trace_through_bus_worker_storage_and_catalog() -> Result<()> {
    let receiver = OtlpReceiver::start().await?;
    let mut builder = Stack::builder();
    for (name, value) in receiver.env() {
        builder = builder.env(&name, value);
    }
    let stack = builder.start().await?;
    // What a new catalog reads in one go has no trace of its own.
    let built = |spans: &[Span]| spans.iter().any(|span| span.name == "rebuild");
    let _spans = receiver
        .wait_for_spans("the catalog's first rows", built)
        .await?;
    let postgres = Postgres::builder().start().await?;
    stack.register("orders", &postgres).await?;
    let _backup = stack.back_up("orders").await?;
    let what = "one trace with spans of scheduler, worker, storage and catalog";
    let _spans = receiver.wait_for_spans(what, services_of_one_trace).await?;
    for (name, service) in [
        ("zektor.backup.attempts", "zektor-backup-worker"),
        ("zektor.wal.archived", "zektor-wal-archiver"),
    ] {
        assert_eq!(receiver.wait_for_metric(name).await?.service, service);
    }
    Ok(())
}
