use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{BoxError, Drain, ServiceInfo, Stops, chain, parse_arguments};

const INFO: ServiceInfo = ServiceInfo {
    name: "example",
    version: "1.2.3",
    about: "shows how it is done",
};

fn parse(arguments: &[&str]) -> Result<super::Arguments, clap::Error> {
    let all = std::iter::once("path/to/binary").chain(arguments.iter().copied());
    parse_arguments(INFO, all.map(Into::into))
}

#[test]
fn arguments_are_those_of_the_contract() {
    let arguments = parse(&["--config", "z.toml", "--print-config"]).unwrap();
    assert_eq!(arguments.config.unwrap().to_str(), Some("z.toml"));
    assert!(arguments.print_config);
    let version = parse(&["--version"]).err().unwrap();
    assert_eq!(version.to_string(), "zektor-example 1.2.3\n");
    let help = parse(&["--help"]).err().unwrap().to_string();
    assert!(help.contains("shows how it is done"), "{help}");
    assert_eq!(parse(&["--what"]).err().unwrap().exit_code(), 2);
}

#[test]
fn a_chain_does_not_repeat_itself() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot start: disk full")]
    struct Outer(#[source] Inner);
    #[derive(Debug, thiserror::Error)]
    #[error("disk full")]
    struct Inner(#[source] std::io::Error);
    let error = Outer(Inner(std::io::Error::other("no space")));
    assert_eq!(chain(&error), "cannot start: disk full: no space");
}

#[tokio::test]
async fn work_that_ends_by_itself_is_not_drained() {
    let drained = Arc::new(AtomicBool::new(false));
    let drain = Drain {
        timeout: Duration::from_secs(60),
        begin: {
            let drained = Arc::clone(&drained);
            move || drained.store(true, Ordering::Relaxed)
        },
    };
    let work = Box::pin(async { Err::<(), BoxError>("broken".into()) });
    let outcome = drain.drive(work, Stops::listen(false).unwrap()).await;
    assert_eq!(outcome.unwrap_err().to_string(), "broken");
    assert!(!drained.load(Ordering::Relaxed));
}
