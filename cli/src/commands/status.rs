//! `zektor status`: what runs, and whether it is ready.

use bus::RequestError;
use events::query::{self, CatalogStatus, StreamProgress};
use serde::Serialize;
use service::config::conceal_url;

use crate::failure::Failure;
use crate::output::{Reply, or_dash, pairs, table};
use crate::session::{Session, Setting};
use crate::stack::{ProcessView, look_at};

#[derive(Debug, Serialize)]
struct StatusView {
    ready: bool,
    home: Option<String>,
    nats: NatsView,
    repository: Option<String>,
    processes: Vec<ProcessView>,
    catalog: Option<CatalogStatus>,
    /// Events that the catalog has not projected yet; absent if it does not answer.
    catalog_lag: Option<u64>,
    catalog_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct NatsView {
    url: String,
    error: Option<String>,
}

/// Shows the processes of the stack, or only the bus and the catalog of one that runs elsewhere.
pub(crate) async fn status(setting: &Setting) -> Result<Reply, Failure> {
    let Some(stack) = setting.stack()? else {
        // Elsewhere, or nowhere: then this says so.
        let session = setting.connect().await?;
        let url = setting.nats.clone().unwrap_or_default();
        let nats = NatsView {
            url: conceal_url(&url),
            error: None,
        };
        let view = StatusView {
            home: None,
            repository: None,
            ..of_bus(&session, nats).await
        };
        return reply(view);
    };
    let client = reqwest::Client::new();
    let looks = stack
        .processes
        .iter()
        .map(|name| look_at(&setting.home, &client, name));
    let processes = futures::future::join_all(looks).await;
    let nats = NatsView {
        url: conceal_url(&stack.nats_url),
        error: None,
    };
    let mut view = match setting.connect().await {
        Ok(session) => of_bus(&session, nats).await,
        Err(failure) => StatusView {
            ready: false,
            home: None,
            nats: NatsView {
                error: Some(failure.message),
                ..nats
            },
            repository: None,
            processes: Vec::new(),
            catalog: None,
            catalog_lag: None,
            catalog_error: None,
        },
    };
    view.ready &= processes.iter().all(|process| process.ready);
    view.home = Some(setting.home.directory().display().to_string());
    view.repository = Some(conceal_url(&stack.repository_url));
    view.processes = processes;
    reply(view)
}

async fn of_bus(session: &Session, nats: NatsView) -> StatusView {
    let catalog = session.ask(&query::Status {}).await;
    let (catalog, catalog_error) = match catalog {
        Ok(catalog) => (Some(catalog), None),
        Err(failure) => (None, Some(failure.message)),
    };
    StatusView {
        ready: catalog.is_some(),
        home: None,
        nats,
        repository: None,
        processes: Vec::new(),
        catalog_lag: catalog.as_ref().and_then(lag),
        catalog,
        catalog_error,
    }
}

/// Messages of all streams that are not in the rows yet; unknown if one is unknown.
pub(crate) fn lag(catalog: &CatalogStatus) -> Option<u64> {
    catalog
        .streams
        .values()
        .map(|StreamProgress { lag, .. }| *lag)
        .try_fold(0, |sum: u64, lag| Some(sum.saturating_add(lag?)))
}

fn reply(view: StatusView) -> Result<Reply, Failure> {
    let text = text(&view);
    Reply::new(&view, text)
}

fn text(view: &StatusView) -> String {
    let catalog = match (&view.catalog, view.catalog_lag) {
        (Some(catalog), Some(lag)) => format!("{} ({lag} events behind)", catalog.backend),
        (Some(catalog), None) => catalog.backend.clone(),
        (None, _) => format!("no answer: {}", or_dash(view.catalog_error.as_ref())),
    };
    let rebuilding = view.catalog.as_ref().and_then(|catalog| catalog.rebuilding);
    let nats = match &view.nats.error {
        None => view.nats.url.clone(),
        Some(error) => format!("{}: {error}", view.nats.url),
    };
    let mut text = pairs(&[
        (
            "stack",
            Some(if view.ready { "ready" } else { "not ready" }.to_owned()),
        ),
        ("home", view.home.clone()),
        ("nats", Some(nats)),
        ("repository", view.repository.clone()),
        ("catalog", Some(catalog)),
        (
            "rebuilding",
            rebuilding.map(|from| format!("from the {}", crate::failure::word(from))),
        ),
    ]);
    if !view.processes.is_empty() {
        let rows = view.processes.iter().map(|process| {
            let state = match &process.reason {
                None => "ready".to_owned(),
                Some(reason) => reason.clone(),
            };
            let address = or_dash(process.address.as_ref());
            vec![process.name.clone(), or_dash(process.pid), address, state]
        });
        text.push('\n');
        text.push_str(&table(
            &["process", "pid", "address", "state"],
            rows.collect(),
        ));
    }
    text
}

/// Whether nobody answers, as against an answer that is an error.
pub(crate) fn nobody_answers(error: &RequestError) -> bool {
    matches!(
        error,
        RequestError::NoResponder { .. } | RequestError::Timeout { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::{NatsView, StatusView, text};
    use crate::stack::ProcessView;

    #[test]
    fn a_stack_that_is_not_ready_says_why() {
        let process = |name: &str, pid, reason: Option<&str>| ProcessView {
            name: name.to_owned(),
            pid,
            ready: reason.is_none(),
            address: (name != "nats").then(|| "127.0.0.1:4001".to_owned()),
            reason: reason.map(str::to_owned),
        };
        let view = StatusView {
            ready: false,
            home: Some("/root/.zektor".to_owned()),
            nats: NatsView {
                url: "nats://127.0.0.1:4222".to_owned(),
                error: None,
            },
            repository: Some("file:///r".to_owned()),
            processes: vec![
                process("nats", Some(7), None),
                process("scheduler", Some(8), None),
                process("catalog", None, Some("it is not running")),
            ],
            catalog: None,
            catalog_lag: None,
            catalog_error: Some("no service answers".to_owned()),
        };
        insta::assert_snapshot!(text(&view), @r#"
        stack       not ready
        home        /root/.zektor
        nats        nats://127.0.0.1:4222
        repository  file:///r
        catalog     no answer: no service answers

        PROCESS    PID  ADDRESS         STATE
        nats       7    -               ready
        scheduler  8    127.0.0.1:4001  ready
        catalog    -    127.0.0.1:4001  it is not running
        "#);
    }
}
