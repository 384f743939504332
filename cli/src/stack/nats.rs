//! The stack's own NATS: configured for durability, on loopback, with a password drawn at every start.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rand::Rng;

use super::children::ChildSpec;
use super::home::{Home, write_private};

const NATS_GRACE: Duration = Duration::from_secs(10);

/// A NATS server that is about to be started.
pub(crate) struct Nats {
    pub(crate) spec: ChildSpec,
    /// With credentials.
    pub(crate) url: String,
    pub(crate) port: u16,
}

impl Nats {
    /// Chooses a port and a password and writes the configuration.
    pub(crate) fn prepare(home: &Home, program: PathBuf) -> io::Result<Nats> {
        let password: u128 = rand::rng().random();
        let port = free_port()?;
        // sync_interval: a message that was acknowledged is on the disk.
        let config = format!(
            "listen: 127.0.0.1:{port}\n\
             authorization {{ user: zektor, password: \"{password:032x}\" }}\n\
             jetstream {{ store_dir: {:?}, sync_interval: always }}\n",
            home.nats_store().display().to_string(),
        );
        write_private(&home.nats_config(), config.as_bytes())?;
        let spec = ChildSpec {
            name: "nats".to_owned(),
            program,
            arguments: vec!["-c".to_owned(), home.nats_config().display().to_string()],
            environment: Vec::new(),
            home: home.clone(),
            grace: NATS_GRACE,
        };
        let url = format!("nats://zektor:{password:032x}@127.0.0.1:{port}");
        Ok(Nats { spec, url, port })
    }
}

/// A port that was free a moment ago; if it is taken meanwhile, NATS does not start, and `zektor up` says so.
fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}
