//! The stack's own NATS: configured for durability, on loopback, behind a password.
//!
//! Port and password are drawn once for a home and stay: a `zektor` that waits over `zektor down` and `zektor up` finds
//! the bus again where it was. Only a port that somebody else has by now is replaced.

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
    /// Settles port and password and writes the configuration.
    pub(crate) fn prepare(home: &Home, program: PathBuf) -> io::Result<Nats> {
        let Address { port, password } = Address::settle(home)?;
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

/// Where NATS listens, and with which password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    port: u16,
    password: u128,
}

impl Address {
    /// That of the last start, if its port is free; what cannot be read is drawn anew.
    fn settle(home: &Home) -> io::Result<Address> {
        let file = home.nats_address();
        let known = std::fs::read_to_string(&file);
        let known = known.ok().as_deref().and_then(Address::read);
        let settled = match known {
            Some(known) if is_free(known.port) => return Ok(known),
            Some(known) => Address {
                port: free_port()?,
                ..known
            },
            None => Address {
                port: free_port()?,
                password: rand::rng().random(),
            },
        };
        write_private(&file, settled.written().as_bytes())?;
        Ok(settled)
    }

    fn read(text: &str) -> Option<Address> {
        let (port, password) = text.trim().split_once(' ')?;
        Some(Address {
            port: port.parse().ok().filter(|port| *port > 0)?,
            password: u128::from_str_radix(password, 16).ok()?,
        })
    }

    fn written(self) -> String {
        format!("{} {:032x}\n", self.port, self.password)
    }
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

    use super::{Address, Nats};
    use crate::stack::Home;

    #[test]
    fn a_home_keeps_the_address_of_its_bus() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::new(place.path().to_owned());
        home.create().unwrap();
        let url = || Nats::prepare(&home, "nats-server".into()).unwrap().url;
        let first = url();
        assert_eq!(url(), first);
        // Somebody else has the port now: another one, and that is kept.
        let port = Address::settle(&home).unwrap().port;
        let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let second = url();
        assert_ne!(second, first);
        drop(taken);
        assert_eq!(url(), second);
        std::fs::write(home.nats_address(), "0 x").unwrap();
        assert_ne!(url(), second);
    }
}
