//! Where the stack is, and the connection to its bus.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusConfig, RequestError};
use events::query::{self, Question};
use events::{BranchName, InstanceName, SealedSecret, subject};
use repository::{Repository, RetryPolicy};
use serde::Serialize;
use serde::de::DeserializeOwned;
use service::seal::{ExposeSecret, dsn_context};
use service::{Clock, Environment, MasterKey, SystemClock};
use tokio::time::Instant;

use crate::arguments::Global;
use crate::failure::{Ending, Failure};
use crate::stack::{Home, StackState};

/// How long a person waits for a bus that is not there.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers come from rows and documents.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What was asked for a moment ago may not be projected yet.
const PROJECTED_WITHIN: Duration = Duration::from_secs(1);
const LISTENING_WITHIN: Duration = Duration::from_secs(2);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What every command knows before it connects to anything.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) home: Home,
    pub(crate) nats: Option<String>,
    pub(crate) master_key_file: Option<PathBuf>,
    pub(crate) wait: bool,
    pub(crate) environment: Environment,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Setting {
    pub(crate) fn new(global: Global, environment: Environment) -> Result<Setting, Failure> {
        let given = |path: Option<PathBuf>, variable: &str| {
            let path = path.or_else(|| environment.get(variable).map(PathBuf::from));
            path.filter(|path| !path.as_os_str().is_empty())
        };
        let nats = environment.get("ZEKTOR_NATS_URL").map(str::to_owned);
        let home = given(global.home, "ZEKTOR_HOME").unwrap_or_else(|| default_home(&environment));
        let home = std::path::absolute(&home)
            .map_err(|error| Failure::local("ZEKTOR_HOME cannot be used", &error))?;
        Ok(Setting {
            home: Home::new(home),
            nats: global.nats.or(nats).filter(|url| !url.is_empty()),
            master_key_file: given(global.master_key_file, "ZEKTOR_MASTER_KEY_FILE"),
            wait: global.wait,
            environment,
            clock: Arc::new(SystemClock),
        })
    }

    /// The running stack of this home, if it is the one to use and there is one.
    pub(crate) fn stack(&self) -> Result<Option<StackState>, Failure> {
        match self.nats {
            Some(_) => Ok(None),
            None => Ok(StackState::read(&self.home)?),
        }
    }

    /// The repository, if the environment names one.
    pub(crate) fn named_repository(&self) -> Result<Option<Repository>, Failure> {
        let url = self.environment.get("ZEKTOR_REPOSITORY_URL");
        Ok(url.map(|url| Repository::open(url, hasty())).transpose()?)
    }

    /// Finds the stack and connects to its bus.
    pub(crate) async fn connect(&self) -> Result<Session, Failure> {
        let stack = self.stack()?;
        let url = match (&self.nats, &stack) {
            (Some(url), _) => url.clone(),
            (None, Some(stack)) => stack.nats_url.clone(),
            (None, None) => return Err(self.not_running()),
        };
        let config = BusConfig {
            connect_deadline: CONNECT_DEADLINE,
            call_timeout: CALL_TIMEOUT,
            patience: PATIENCE,
            ..BusConfig::new(url, "zektor")
        };
        let bus = Bus::connect(config).await?;
        Ok(Session {
            bus,
            stack,
            setting: self.clone(),
        })
    }

    pub(crate) fn not_running(&self) -> Failure {
        let home = self.home.directory().display();
        Failure::new(
            Ending::Unreachable,
            "not_running",
            format!("no zektor stack is running in {home}; start one with `zektor up`"),
            "or give the bus of another one with --nats",
        )
    }
}

fn default_home(environment: &Environment) -> PathBuf {
    let home = environment.get("HOME").map(PathBuf::from);
    home.map_or_else(
        || PathBuf::from("/var/lib/zektor"),
        |home| home.join(".zektor"),
    )
}

/// A connection to the bus of one stack.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) bus: Bus,
    pub(crate) stack: Option<StackState>,
    pub(crate) setting: Setting,
}

impl Session {
    /// Asks the catalog.
    pub(crate) async fn ask<Q: Question>(&self, question: &Q) -> Result<Q::Answer, Failure> {
        Ok(self.ask_once(question).await?)
    }

    /// Asks the catalog for something that may have been made a moment ago: "not found" is believed only
    /// after a second.
    pub(crate) async fn ask_patiently<Q: Question>(
        &self,
        question: &Q,
    ) -> Result<Q::Answer, Failure> {
        let deadline = Instant::now() + PROJECTED_WITHIN;
        loop {
            match self.ask_once(question).await {
                Err(RequestError::Refused(refusal))
                    if refusal.code == query::NOT_FOUND && Instant::now() < deadline =>
                {
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                }
                answer => return Ok(answer?),
            }
        }
    }

    /// Refuses a branch that the catalog does not know, where nothing that is known of it may be a slip of the pen. A
    /// catalog that does not answer refuses nothing.
    pub(crate) async fn require_branch(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<(), Failure> {
        let question = query::BranchShow {
            instance: instance.clone(),
            branch: branch.clone(),
        };
        match self.ask_patiently(&question).await {
            Err(failure) if failure.ending == Ending::NotFound => Err(failure),
            _ => Ok(()),
        }
    }

    async fn ask_once<Q: Question>(&self, question: &Q) -> Result<Q::Answer, RequestError> {
        let subject = subject::catalog_query(Q::NAME);
        self.request(&subject, question, ANSWER_WITHIN).await
    }

    /// Asks a service. One that was started a moment ago may not listen yet: "nobody" is believed only after
    /// two seconds.
    pub(crate) async fn request<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        subject: &str,
        question: &Q,
        timeout: Duration,
    ) -> Result<A, RequestError> {
        let deadline = Instant::now() + LISTENING_WITHIN;
        loop {
            match self.bus.request(subject, question, timeout).await {
                Err(RequestError::NoResponder { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                }
                answer => return answer,
            }
        }
    }

    /// Waits a moment until the catalog has projected the event at `sequence`, so that the next command
    /// sees it. A catalog that does not answer is not waited for.
    pub(crate) async fn projected(&self, sequence: bus::Sequence) {
        let subject = subject::catalog_query(query::Status::NAME);
        let deadline = Instant::now() + PROJECTED_WITHIN;
        while Instant::now() < deadline {
            let asked = self
                .bus
                .request(&subject, &query::Status {}, PROJECTED_WITHIN);
            let Ok(status): Result<query::CatalogStatus, _> = asked.await else {
                return;
            };
            let applied = status.streams.get(events::topology::EVENTS);
            if applied.is_none_or(|progress| progress.applied_sequence >= sequence.0) {
                return;
            }
            tokio::time::sleep(ASK_AGAIN_AFTER / 2).await;
        }
    }

    /// The key that secrets are sealed with.
    pub(crate) fn master_key(&self) -> Result<MasterKey, Failure> {
        let given = self.setting.master_key_file.as_ref();
        let path = match (&self.stack, given) {
            (Some(stack), _) => &stack.master_key_file,
            (None, Some(given)) => given,
            (None, None) => {
                return Err(Failure::usage(
                    "secrets are sealed with the stack's master key, and it was not given",
                    "set ZEKTOR_MASTER_KEY_FILE to the file that the services use",
                ));
            }
        };
        Ok(MasterKey::load(path)?)
    }

    /// A branch's connection URI, with its password.
    pub(crate) fn open_dsn(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        sealed: &SealedSecret,
    ) -> Result<String, Failure> {
        let opened = self
            .master_key()?
            .open(sealed, &dsn_context(instance, branch))?;
        Ok(opened.expose_secret().to_owned())
    }

    /// The repository's URL, if it is known from here.
    pub(crate) fn repository_url(&self) -> Option<&str> {
        let stack = self.stack.as_ref();
        stack
            .map(|stack| stack.repository_url.as_str())
            .or_else(|| self.setting.environment.get("ZEKTOR_REPOSITORY_URL"))
    }

    /// The repository, if it is known from here.
    pub(crate) fn repository(&self) -> Result<Option<Repository>, Failure> {
        let url = self.repository_url();
        Ok(url.map(|url| Repository::open(url, hasty())).transpose()?)
    }
}

/// A person waits: that a store does not answer is told soon.
pub(crate) fn hasty() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        call_timeout: CALL_TIMEOUT,
        ..RetryPolicy::default()
    }
}
