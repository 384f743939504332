//! A real NATS server with JetStream, its store in a temporary directory.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use provision::Tool;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use crate::child::{Running, Signal};
use crate::port::Port;
use crate::{START_TIMEOUT, temporary_directory, tool};

/// Who may connect.
#[derive(Debug, Clone, Default)]
enum Access {
    #[default]
    Everybody,
    Token(String),
    User {
        name: String,
        password: String,
    },
}

/// How a server is to be started.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    sync_always: bool,
    access: Access,
    extra: String,
}

impl Builder {
    /// Sync every message to disk before it is acknowledged, as in production.
    #[must_use]
    pub fn sync_always(mut self) -> Self {
        self.sync_always = true;
        self
    }

    /// Only clients with this token may connect.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.access = Access::Token(token.to_owned());
        self
    }

    /// Only this user may connect.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.access = Access::User {
            name: name.to_owned(),
            password: password.to_owned(),
        };
        self
    }

    /// Further lines of the server's configuration file.
    #[must_use]
    pub fn configuration(mut self, lines: &str) -> Self {
        self.extra.push_str(lines);
        self
    }

    /// Starts the server and waits until JetStream answers.
    ///
    /// # Errors
    /// When it is not installed or does not start; the error has the end of its log.
    pub async fn start(self) -> Result<NatsServer> {
        let place = temporary_directory()?;
        let mut server = NatsServer {
            builder: self,
            place,
            port: Port::reserve()?,
            running: None,
        };
        fs::write(server.configuration_file(), server.configuration())?;
        server.start_again().await?;
        Ok(server)
    }
}

/// A running NATS server; killed when it is dropped.
#[derive(Debug)]
pub struct NatsServer {
    builder: Builder,
    place: TempDir,
    port: Port,
    running: Option<Running>,
}

impl NatsServer {
    /// Starts a server without authentication.
    ///
    /// # Errors
    /// See [`Builder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// A server with other settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The client URL, with the credentials where the server wants some. It stays the same over restarts.
    #[must_use]
    pub fn url(&self) -> String {
        let credentials = match &self.builder.access {
            Access::Everybody => String::new(),
            Access::Token(token) => format!("{token}@"),
            Access::User { name, password } => format!("{name}:{password}@"),
        };
        format!("nats://{credentials}{}", self.address())
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// The process, for measurements.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.running.as_ref().map(Running::id)
    }

    /// SIGKILL, and waits until the process is gone. The store stays.
    ///
    /// # Errors
    /// When the process cannot be signalled or does not end.
    pub async fn kill(&mut self) -> Result<()> {
        self.end(Signal::Kill).await
    }

    /// An orderly end. The store stays.
    ///
    /// # Errors
    /// When the process cannot be signalled or does not end.
    pub async fn stop(&mut self) -> Result<()> {
        self.end(Signal::Terminate).await
    }

    /// Starts it on the same port and store; nothing happens when it runs.
    ///
    /// # Errors
    /// See [`Builder::start`].
    pub async fn start_again(&mut self) -> Result<()> {
        if self.running.as_mut().is_some_and(Running::runs) {
            return Ok(());
        }
        let program = tool(Tool::NatsServer)?.program(Tool::NatsServer.program());
        let log = self.place.path().join("nats.log");
        let mut command = Command::new(program);
        let command = command.arg("-c").arg(self.configuration_file());
        let mut running = Running::spawn("nats-server", command, &log)?;
        let address = self.address();
        running
            .ready(START_TIMEOUT, async || {
                jetstream_answers(&address).await.is_ok()
            })
            .await?;
        self.running = Some(running);
        Ok(())
    }

    /// An orderly end and a new start.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start_again`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// SIGKILL, the store is deleted, and an empty server starts at the same address.
    ///
    /// # Errors
    /// As [`Self::kill`] and [`Self::start_again`], or when the store cannot be deleted.
    pub async fn lose_everything(&mut self) -> Result<()> {
        self.kill().await?;
        std::fs::remove_dir_all(self.place.path().join("jetstream"))?;
        self.start_again().await
    }

    async fn end(&mut self, signal: Signal) -> Result<()> {
        if let Some(mut running) = self.running.take_if(Running::runs) {
            running.signal(signal)?;
            let _ = running.ended(START_TIMEOUT).await?;
        }
        Ok(())
    }

    fn configuration_file(&self) -> PathBuf {
        self.place.path().join("nats.conf")
    }

    fn configuration(&self) -> String {
        let store = self.place.path().join("jetstream");
        let sync = if self.builder.sync_always {
            "sync_interval: always"
        } else {
            ""
        };
        let mut text = format!(
            "server_name: test\nlisten: \"{}\"\njetstream {{ store_dir: {store:?}\n{sync}\n}}\n{}\n",
            self.address(),
            self.builder.extra,
        );
        let authorization = match &self.builder.access {
            Access::Everybody => return text,
            Access::Token(token) => format!("token: {token:?}"),
            Access::User { name, password } => format!("user: {name:?}, password: {password:?}"),
        };
        let _infallible = writeln!(text, "authorization {{ {authorization} }}");
        text
    }
}

/// The server's first line says whether JetStream is up; it needs no authentication.
async fn jetstream_answers(address: &str) -> Result<()> {
    let mut line = String::new();
    let _ = BufReader::new(TcpStream::connect(address).await?)
        .read_line(&mut line)
        .await?;
    line.contains(r#""jetstream":true"#)
        .then_some(())
        .context("jetstream is not ready")
}

#[cfg(test)]
mod tests;
