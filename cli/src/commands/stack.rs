//! `zektor up` and `zektor down`.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use provision::Tools;
use rustix::process::Signal;
use serde_json::json;
use service::config::conceal_url;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::arguments::Up;
use crate::failure::{Ending, Failure};
use crate::output::{Reply, pairs};
use crate::progress::Progress;
use crate::session::Setting;
use crate::stack::{Home, ProcessId, StackState, Supervisor, end_orphans, is_supervisor};

/// NATS may have to be downloaded first, on a slow line.
const UP_WITHIN: Duration = Duration::from_secs(600);
/// Services drain, then NATS.
const DOWN_WITHIN: Duration = Duration::from_secs(90);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Starts the stack, in the background unless it is told to stay.
pub(crate) async fn up(setting: &Setting, up: &Up) -> Result<Reply, Failure> {
    let given = |url: &Option<String>| url.clone().filter(|url| !url.is_empty());
    let repository = given(&up.repository);
    if let Some(url) = &repository {
        check_repository_url(url)?;
    }
    if let Some(url) = given(&up.catalog) {
        check_catalog_url(&url)?;
    }
    if up.foreground {
        let tools = Tools::from_environment()
            .map_err(|error| Failure::local("nats cannot be found", &error))?;
        let supervisor = Supervisor {
            home: setting.home.clone(),
            tools,
            nats_url: setting.nats.clone(),
            repository_url: repository,
            catalog_url: given(&up.catalog),
            master_key_file: setting.master_key_file.clone(),
            backup_workers: usize::from(up.backup_workers),
        };
        supervisor.run(on_signal()?).await?;
        return Ok(Reply::nothing());
    }
    let chosen = setting.home.repository_choice(repository.as_deref());
    let chosen = chosen.map_err(|error| {
        Failure::new(Ending::Refused, "another_repository", error.to_string(), "")
    })?;
    if let Some(state) = StackState::read(&setting.home)? {
        if repository.is_some() && state.repository_url != chosen {
            let message = format!("the running stack archives into {}", state.repository_url);
            let hint = "use another --home for another repository";
            return Err(Failure::new(
                Ending::Refused,
                "another_repository",
                message,
                hint,
            ));
        }
        return described(setting, &state, "is running already");
    }
    if setting.nats.is_some() {
        // Services wait for their bus; a person who has mistyped it does not want to.
        let _session = setting.connect().await?;
    }
    let state = start_detached(setting, up).await?;
    described(setting, &state, "is ready")
}

/// What `Repository::open` would refuse in every service is refused once, and nothing is created.
fn check_repository_url(url: &str) -> Result<(), Failure> {
    let known = ["file:///", "s3://", "gs://", "az://"];
    if known.iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(());
    }
    Err(Failure::usage(
        format!("{:?} is not the url of a repository", conceal_url(url)),
        "use file:///directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
    ))
}

/// The same for the catalog's.
fn check_catalog_url(url: &str) -> Result<(), Failure> {
    let known = ["sqlite:///", "postgres://", "postgresql://"];
    if known.iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(());
    }
    Err(Failure::usage(
        format!("{:?} is not the url of a catalog", conceal_url(url)),
        "use sqlite:///file or postgres://user:password@host/database",
    ))
}

/// SIGTERM, Ctrl-C and the end of the terminal all mean the same to the supervisor.
fn on_signal() -> Result<CancellationToken, Failure> {
    let token = CancellationToken::new();
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        let mut signals =
            signal(kind).map_err(|error| Failure::local("signals cannot be received", &error))?;
        let token = token.clone();
        drop(tokio::spawn(async move {
            let _ = signals.recv().await;
            token.cancel();
        }));
    }
    Ok(token)
}

async fn start_detached(setting: &Setting, up: &Up) -> Result<StackState, Failure> {
    let home = &setting.home;
    home.create().map_err(|error| {
        let what = format!("{} cannot be made", home.directory().display());
        Failure::local(&what, &error)
    })?;
    // What one that was killed was waiting for is no news.
    let _ = std::fs::remove_file(home.waiting());
    let log = home.log_of("supervisor");
    let (mut child, log_begins) = spawn(setting, up, &log)
        .map_err(|error| Failure::local("the supervisor cannot be started", &error))?;
    let mut progress = Progress::start("starting the stack");
    let deadline = Instant::now() + UP_WITHIN;
    loop {
        if let Some(state) = StackState::read(home)? {
            return Ok(state);
        }
        if let Some(status) = child.try_wait().ok().flatten()
            && !another_is_starting(home, status)
        {
            return Err(ended(&log, log_begins, status));
        }
        if Instant::now() > deadline {
            return Err(Failure::new(
                Ending::Failed,
                "stack",
                format!("the stack was not ready within {} s", UP_WITHIN.as_secs()),
                format!("see {}; `zektor down` ends it", log.display()),
            ));
        }
        if let Ok(what) = std::fs::read_to_string(home.waiting()) {
            progress.enter(&format!("waiting for {what}"));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Starts this program again, in a process group of its own, so that it outlives the terminal.
fn spawn(setting: &Setting, up: &Up, log: &Path) -> std::io::Result<(Child, u64)> {
    use std::os::unix::fs::OpenOptionsExt;

    let mut options = std::fs::OpenOptions::new();
    let log = options.create(true).append(true).mode(0o600).open(log)?;
    let begins = log.metadata()?.len();
    let mut command = Command::new(std::env::current_exe()?);
    let _ = command
        .args(["up", "--foreground", "--home"])
        .arg(setting.home.directory())
        .arg("--backup-workers")
        .arg(up.backup_workers.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    // Through the environment: what is on a command line is seen by everybody.
    let passed_on = [
        ("ZEKTOR_REPOSITORY_URL", &up.repository),
        ("ZEKTOR_CATALOG_URL", &up.catalog),
        ("ZEKTOR_NATS_URL", &setting.nats),
    ];
    for (name, value) in passed_on {
        if let Some(value) = value {
            let _ = command.env(name, value);
        }
    }
    if let Some(path) = &setting.master_key_file {
        let _ = command.env("ZEKTOR_MASTER_KEY_FILE", std::path::absolute(path)?);
    }
    Ok((command.spawn()?, begins))
}

/// Two `zektor up` at once: the one whose supervisor was refused waits for the other's.
fn another_is_starting(home: &Home, status: ExitStatus) -> bool {
    let refused = status.code() == Some(Ending::Refused as i32);
    refused && ProcessId::read(&home.lock()).is_some_and(is_supervisor)
}

/// Why the supervisor ended: the last error in what it logged.
fn ended(log: &Path, begins: u64, status: ExitStatus) -> Failure {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let _ = file.seek(SeekFrom::Start(begins))?;
        let mut text = String::new();
        let _ = file.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    let error = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("error: "));
    let reason = error.unwrap_or("it did not say why");
    let message = format!("the stack could not be started: {reason}");
    let hint = format!("see {}", log.display());
    if status.code() == Some(Ending::Usage as i32) {
        return Failure::usage(message, hint);
    }
    Failure::new(Ending::Failed, "stack", message, hint)
}

fn described(setting: &Setting, state: &StackState, how: &str) -> Result<Reply, Failure> {
    let home = &setting.home;
    let (nats, repository) = (
        conceal_url(&state.nats_url),
        conceal_url(&state.repository_url),
    );
    let catalog = conceal_url(&state.catalog_url);
    let path = |path: &Path| path.display().to_string();
    let document = json!({
        "status": "running",
        "supervisor_pid": state.supervisor_pid,
        "home": path(home.directory()),
        "nats": nats,
        "repository": repository,
        "catalog": catalog,
        "master_key_file": path(&state.master_key_file),
        "logs": path(&home.logs()),
        "processes": state.processes,
    });
    let places = pairs(&[
        ("home", Some(path(home.directory()))),
        ("repository", Some(repository)),
        ("catalog", Some(catalog)),
        ("master key", Some(path(&state.master_key_file))),
        ("logs", Some(path(&home.logs()))),
        ("nats", Some(nats)),
        (
            "supervisor",
            Some(format!("process {}", state.supervisor_pid)),
        ),
    ]);
    let next = "Protect a database: zektor instance add NAME --dsn postgres://user:password@host/";
    Reply::new(&document, format!("The stack {how}.\n\n{places}\n{next}"))
}

/// Ends the stack, also one that is only starting.
pub(crate) async fn down(setting: &Setting) -> Result<Reply, Failure> {
    let home = &setting.home;
    let Some(supervisor) = ProcessId::read(&home.lock()).filter(|it| is_supervisor(*it)) else {
        // A killed supervisor leaves what does not watch it.
        end_orphans(home).await;
        let document = json!({ "status": "stopped" });
        let text = format!("No stack is running in {}.", home.directory().display());
        return Reply::new(&document, text);
    };
    let mut progress = Progress::start("waiting for the stack to drain");
    let what = format!("process {} cannot be told to end", supervisor.0);
    supervisor
        .signal(Signal::TERM)
        .map_err(|error| Failure::local(&what, &error))?;
    progress.enter("waiting for the stack to drain");
    if !supervisor.gone(DOWN_WITHIN, is_supervisor).await {
        return Err(Failure::new(
            Ending::Failed,
            "stack",
            format!("the stack did not end within {} s", DOWN_WITHIN.as_secs()),
            format!("see {}", home.log_of("supervisor").display()),
        ));
    }
    Reply::new(&json!({ "status": "stopped" }), "The stack is stopped.")
}
