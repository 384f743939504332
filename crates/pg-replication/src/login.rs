//! Proving who we are, and with SCRAM also who the server is.

use bytes::Bytes;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use crate::connect::Channel;
use crate::error::{PgError, ServerMessage};
use crate::settings::{ChannelBinding, ConnectionSettings};
use crate::wire::{Body, Frame, Wire, server_message};

const DURING: &str = "logging in";

const AUTHENTICATION_OK: u32 = 0;
const AUTHENTICATION_CLEARTEXT: u32 = 3;
const AUTHENTICATION_MD5: u32 = 5;
const AUTHENTICATION_SASL: u32 = 10;
const AUTHENTICATION_SASL_CONTINUE: u32 = 11;
const AUTHENTICATION_SASL_FINAL: u32 = 12;

/// What the login needs to know about the connection.
pub(crate) struct Login<'a> {
    settings: &'a ConnectionSettings,
    encrypted: bool,
    private: bool,
    certificate_hash: Option<Vec<u8>>,
}

impl<'a> Login<'a> {
    pub(crate) fn new(settings: &'a ConnectionSettings, channel: &mut Channel) -> Self {
        Login {
            settings,
            encrypted: channel.encrypted,
            private: channel.private,
            certificate_hash: channel.certificate_hash.take(),
        }
    }

    /// Answers the server's requests until it accepts us.
    pub(crate) async fn run(mut self, wire: &mut Wire) -> Result<(), PgError> {
        let bound = match self.request(wire).await? {
            (AUTHENTICATION_OK, _) => return self.accepted(false),
            (AUTHENTICATION_CLEARTEXT, _) => {
                let password = self.password_over_private()?.to_owned();
                self.send_password(wire, password.as_bytes()).await?;
                false
            }
            (AUTHENTICATION_MD5, mut body) => {
                let salt = body.u32()?.to_be_bytes();
                let password = self.password_over_private()?;
                let hash = md5_hash(self.settings.user().as_bytes(), password.as_bytes(), salt);
                self.send_password(wire, hash.as_bytes()).await?;
                false
            }
            (AUTHENTICATION_SASL, body) => self.scram(wire, body).await?,
            (other, _) => {
                return Err(self.refuse(
                    format!("the server asks for authentication method {other}"),
                    Some("use scram-sha-256 in pg_hba.conf"),
                ));
            }
        };
        match self.request(wire).await? {
            (AUTHENTICATION_OK, _) => self.accepted(bound),
            (other, _) => Err(PgError::protocol(format!(
                "authentication request {other} is late"
            ))),
        }
    }

    fn accepted(&self, bound: bool) -> Result<(), PgError> {
        if self.settings.channel_binding == ChannelBinding::Require && !bound {
            return Err(self.refuse(
                "the server did not ask for scram with channel binding".to_owned(),
                Some("use scram-sha-256 in pg_hba.conf, or drop channel_binding=require"),
            ));
        }
        Ok(())
    }

    /// The next `Authentication...` message: its code and the rest.
    async fn request(&self, wire: &mut Wire) -> Result<(u32, Body), PgError> {
        loop {
            let Frame { tag, body } = wire.read(DURING).await?;
            match tag {
                b'R' => {
                    let mut body = Body::new(body);
                    return Ok((body.u32()?, body));
                }
                b'E' => return Err(startup_error(self.settings, server_message(body)?)),
                b'N' => {}
                other => {
                    return Err(PgError::protocol(format!(
                        "unexpected message {:?} while {DURING}",
                        char::from(other)
                    )));
                }
            }
        }
    }

    /// Runs SCRAM; true if it was bound to the TLS channel.
    async fn scram(&mut self, wire: &mut Wire, mut offered: Body) -> Result<bool, PgError> {
        let (mut plain, mut plus) = (false, false);
        loop {
            match offered.text()?.as_str() {
                "" => break,
                SCRAM_SHA_256 => plain = true,
                SCRAM_SHA_256_PLUS => plus = true,
                _ => {}
            }
        }
        let (mechanism, binding, bound) = self.choose(plain, plus)?;
        let password = self.password()?.to_owned();
        let mut scram = ScramSha256::new(password.as_bytes(), binding);
        wire.queue(|buf| frontend::sasl_initial_response(mechanism, scram.message(), buf))?;
        wire.flush(DURING).await?;

        let challenge = self.sasl(wire, AUTHENTICATION_SASL_CONTINUE).await?;
        scram
            .update(&challenge)
            .map_err(|error| PgError::protocol(format!("scram challenge: {error}")))?;
        wire.queue(|buf| frontend::sasl_response(scram.message(), buf))?;
        wire.flush(DURING).await?;

        let proof = self.sasl(wire, AUTHENTICATION_SASL_FINAL).await?;
        scram.finish(&proof).map_err(|_| {
            self.refuse(
                "the server did not prove that it knows the password".to_owned(),
                Some("somebody may sit between you and the server"),
            )
        })?;
        Ok(bound)
    }

    fn choose(
        &mut self,
        plain: bool,
        plus: bool,
    ) -> Result<(&'static str, sasl::ChannelBinding, bool), PgError> {
        let wanted = self.settings.channel_binding;
        let hash = self
            .certificate_hash
            .take()
            .filter(|_| wanted != ChannelBinding::Disable);
        match hash {
            Some(hash) if plus => {
                let binding = sasl::ChannelBinding::tls_server_end_point(hash);
                Ok((SCRAM_SHA_256_PLUS, binding, true))
            }
            _ if wanted == ChannelBinding::Require => Err(self.refuse(
                "channel_binding=require cannot be met".to_owned(),
                Some(if !self.encrypted {
                    "it needs tls: add sslmode=require"
                } else if plus {
                    "the server's certificate is signed with an algorithm that has no binding; \
                     use an rsa or ecdsa certificate"
                } else {
                    "the server does not offer SCRAM-SHA-256-PLUS"
                }),
            )),
            // "We could, you did not offer": a server that did offer then knows that somebody
            // took the offer away.
            Some(_) if plain => Ok((SCRAM_SHA_256, sasl::ChannelBinding::unrequested(), false)),
            None if plain => Ok((SCRAM_SHA_256, sasl::ChannelBinding::unsupported(), false)),
            _ => Err(self.refuse(
                "the server offers no authentication mechanism that is known here".to_owned(),
                Some("use scram-sha-256 in pg_hba.conf"),
            )),
        }
    }

    async fn sasl(&self, wire: &mut Wire, expected: u32) -> Result<Bytes, PgError> {
        match self.request(wire).await? {
            (code, body) if code == expected => Ok(body.rest()),
            (code, _) => Err(PgError::protocol(format!(
                "authentication request {code} where {expected} was due"
            ))),
        }
    }

    async fn send_password(&self, wire: &mut Wire, password: &[u8]) -> Result<(), PgError> {
        wire.queue(|buf| frontend::password_message(password, buf))?;
        wire.flush(DURING).await
    }

    fn password(&self) -> Result<&str, PgError> {
        let password = self
            .settings
            .password
            .as_ref()
            .map(|password| password.0.as_str());
        password.ok_or_else(|| {
            self.refuse(
                "the server asks for a password and the dsn has none".to_owned(),
                Some("write postgres://USER:PASSWORD@HOST/DATABASE"),
            )
        })
    }

    /// For methods that show the password, or as much as the password, to who listens.
    fn password_over_private(&self) -> Result<&str, PgError> {
        if self.settings.channel_binding == ChannelBinding::Require {
            self.accepted(false)?;
        }
        if !self.private {
            return Err(self.refuse(
                "the server asks for a password in the clear (or as md5) over an open network"
                    .to_owned(),
                Some("use scram-sha-256 in pg_hba.conf, or tls with sslmode=verify-full"),
            ));
        }
        self.password()
    }

    fn refuse(&self, reason: String, hint: Option<&'static str>) -> PgError {
        PgError::Authentication {
            host: self.settings.endpoint(),
            user: self.settings.user().to_owned(),
            reason,
            hint,
            sqlstate: None,
        }
    }
}

/// An error before the session is ready: who may not come in gets a hint why.
pub(crate) fn startup_error(settings: &ConnectionSettings, message: ServerMessage) -> PgError {
    let hint = match message.sqlstate.as_str() {
        "28P01" => "check the password in the dsn",
        "28000" if message.message.contains("replication connection") => {
            "add a line for this user with the database `replication` to pg_hba.conf and reload"
        }
        "28000" if message.message.contains("pg_hba.conf") => {
            "add a line for this user, database and address to pg_hba.conf and reload"
        }
        "28000" => "check the user in the dsn and pg_hba.conf",
        "42501" => "give the role the right: ALTER ROLE ... REPLICATION",
        _ => return PgError::Server(Box::new(message)),
    };
    PgError::Authentication {
        host: settings.endpoint(),
        user: settings.user().to_owned(),
        reason: message.message,
        hint: Some(hint),
        sqlstate: Some(message.sqlstate),
    }
}

/// `StartupMessage` has no tag; the rest of the session does.
pub(crate) async fn send_startup(
    wire: &mut Wire,
    parameters: &[(&str, &str)],
) -> Result<(), PgError> {
    wire.queue(|buf| frontend::startup_message(parameters.iter().copied(), buf))?;
    wire.flush(DURING).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(settings: &ConnectionSettings, private: bool) -> Login<'_> {
        Login {
            settings,
            encrypted: false,
            private,
            certificate_hash: None,
        }
    }

    /// Against a server that asks for the password over an open network.
    #[tokio::test]
    async fn no_password_is_shown_to_the_network() {
        let settings = ConnectionSettings::parse("postgres://u:pw@db.example.com/d").unwrap();
        for request in [&[0, 0, 0, 3][..], &[0, 0, 0, 5, 1, 2, 3, 4]] {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            let length = u8::try_from(request.len() + 4).unwrap();
            let frame = [&[b'R', 0, 0, 0, length][..], request].concat();
            tokio::io::AsyncWriteExt::write_all(&mut theirs, &frame)
                .await
                .unwrap();
            let mut wire = Wire::new(Box::new(ours));
            let error = login(&settings, false).run(&mut wire).await.unwrap_err();
            assert!(error.to_string().contains("open network"), "{error}");
            drop(wire);
            let mut sent = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut sent)
                .await
                .unwrap();
            assert!(sent.is_empty());
        }
    }

    #[test]
    fn which_mechanism() {
        let choose = |binding: &str, hash: Option<Vec<u8>>, plain, plus| {
            let dsn = format!("postgres://u:pw@h/d?channel_binding={binding}");
            let settings = ConnectionSettings::parse(&dsn).unwrap();
            let mut login = login(&settings, true);
            login.certificate_hash = hash;
            let (mechanism, _, bound) = login.choose(plain, plus).ok()?;
            assert_eq!(bound, mechanism == SCRAM_SHA_256_PLUS);
            Some(mechanism)
        };
        let hash = || Some(vec![1]);
        for (binding, hash, plain, plus, expected) in [
            ("prefer", hash(), true, true, Some(SCRAM_SHA_256_PLUS)),
            ("require", hash(), true, true, Some(SCRAM_SHA_256_PLUS)),
            ("disable", hash(), true, true, Some(SCRAM_SHA_256)),
            ("prefer", hash(), true, false, Some(SCRAM_SHA_256)),
            ("prefer", None, true, true, Some(SCRAM_SHA_256)),
            ("require", hash(), true, false, None),
            ("require", None, true, true, None),
            ("prefer", None, false, true, None),
            ("prefer", hash(), false, false, None),
        ] {
            assert_eq!(
                choose(binding, hash, plain, plus),
                expected,
                "{binding} {plain} {plus}"
            );
        }
    }
}
