//! The stack's own NATS: configured for durability, on loopback, behind a password.
//!
//! The port is drawn once for a home and stays: who knows the bus by its address finds it again after `zektor down` and
//! `zektor up`. Only a port that somebody else has by now is replaced. The password is drawn at each start: a client that
//! waits for the bus gives the one it has to whoever listens there meanwhile.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rand::Rng;

use super::children::{ChildSpec, Deaths};
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
    /// Settles the port, draws a password and writes the configuration.
    pub(crate) fn prepare(home: &Home, program: PathBuf) -> io::Result<Nats> {
        let port = settle_port(home)?;
        let password: u128 = rand::rng().random();
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
            deaths: Deaths::default(),
        };
        let url = format!("nats://zektor:{password:032x}@127.0.0.1:{port}");
        Ok(Nats { spec, url, port })
    }
}

/// The port of the last start if it is free, else another one; what cannot be read is drawn anew.
fn settle_port(home: &Home) -> io::Result<u16> {
    let file = home.nats_port();
    let known = std::fs::read_to_string(&file).ok();
    let known = known.and_then(|text| text.trim().parse().ok());
    if let Some(port) = known.filter(|port| *port > 0 && is_free(*port)) {
        return Ok(port);
    }
    let port = free_port()?;
    write_private(&file, format!("{port}\n").as_bytes())?;
    Ok(port)
}

fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// A port that was free a moment ago; if it is taken meanwhile, NATS does not start, and `zektor up` says so.
fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::Nats;
    use crate::stack::Home;

    #[test]
    fn a_home_keeps_the_port_of_its_bus_and_no_password() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::new(place.path().to_owned());
        home.create().unwrap();
        let prepare = || Nats::prepare(&home, "nats-server".into()).unwrap();
        let first = prepare();
        let again = prepare();
        assert_eq!(again.port, first.port);
        assert_ne!(again.url, first.url, "the password is another one");
        // Somebody else has the port now: another one, and that is kept.
        let taken = TcpListener::bind(("127.0.0.1", first.port)).unwrap();
        let second = prepare();
        assert_ne!(second.port, first.port);
        drop(taken);
        assert_eq!(prepare().port, second.port);
        std::fs::write(home.nats_port(), "0").unwrap();
        assert_ne!(prepare().port, 0);
    }
}
