use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::wait_until;

/// A service made of a shell script, since no program of ours is built before this crate.
fn script(text: &str) -> Service {
    let place = temporary_directory().unwrap();
    let path = place.path().join("service");
    fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let builder = Service::builder("script")
        .env("GREETING", "hello")
        .argument("world");
    Service {
        builder,
        path,
        place,
        running: None,
    }
}

async fn logged(service: &Service, text: &str) {
    let what = format!("{text:?} in the log");
    wait_until(&what, START_TIMEOUT, async || service.log().contains(text))
        .await
        .unwrap();
}

const WAITS: &str =
    "trap 'echo drained; exit 7' TERM\necho $GREETING $1 $CARGO\nwhile :; do sleep 0.01; done";

#[tokio::test]
async fn it_gets_its_environment_only_and_ends_as_asked() {
    let mut service = script(WAITS);
    service.start_again().await.unwrap();
    logged(&service, "hello world\n").await;
    assert_eq!(service.terminate().await.unwrap().code(), Some(7));
    assert!(service.log().contains("drained"));
    assert!(
        service.terminate().await.is_err(),
        "it does not run any more"
    );

    service.start_again().await.unwrap();
    let first = service.process_id().unwrap();
    service.freeze().unwrap();
    service.thaw().unwrap();
    assert_eq!(service.kill9().await.unwrap().code(), None);
    service.start_again().await.unwrap();
    assert_ne!(service.process_id(), Some(first));
}

#[tokio::test]
async fn one_that_fails_before_it_is_ready_shows_its_log() {
    let mut service = script("echo no configuration >&2; exit 2");
    service.builder = service.builder.clone().health("127.0.0.1:1");
    let error = format!("{:#}", service.start_again().await.unwrap_err());
    assert!(
        error.contains("no configuration") && error.contains("exit status: 2"),
        "{error}"
    );
}

#[test]
fn a_program_that_is_not_built_says_how_to_build_it() {
    let error = program("zektor-nothing").unwrap_err().to_string();
    assert!(error.contains("cargo build --workspace"), "{error}");
}
