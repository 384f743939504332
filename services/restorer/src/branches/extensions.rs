//! `extensions.reinstall`: what can be mended of a branch's extensions, now that files are there.
//!
//! Libraries that the source preloads and that are here now are preloaded too, for which the server is started
//! again. The rest is [`crate::extensions`].

use std::collections::BTreeMap;
use std::fs;

use events::command::ExtensionsReinstall;
use events::event::{BranchExtensionsReinstalled, Event, ExtensionCheck, RefusalCode};
use pg_replication::{ConnectionSettings, PgError};
use service::seal::{ExposeSecret as _, dsn_context};

use super::Given;
use crate::compute::{ComputeError, Programs, ServerState, Stopping};
use crate::error::RestoreError;
use crate::extensions::{self, Depth};
use crate::outcome::FinishedBranch;
use crate::restorer::Restorer;
use crate::server_sql::Door;
use crate::settings::carried;
use crate::site::Site;

const PRELOAD: &str = "shared_preload_libraries";

impl Restorer {
    /// Mends a branch's extensions and tells how they stand.
    ///
    /// # Errors
    /// The branch's server failed, the bus failed, or [`RestoreError::Elsewhere`].
    pub async fn reinstall_extensions(
        &self,
        order: &ExtensionsReinstall,
        given: &Given,
    ) -> Result<(), RestoreError> {
        let (instance, branch) = (&order.instance, &order.branch);
        if !self.reaches(instance, branch, given).await? {
            return Ok(());
        }
        let site = self.compute.site(instance, branch);
        let _lock = self.compute.lock(&site).await?;
        let Some(finished) = FinishedBranch::at(&site)? else {
            return self.not_ours(instance, branch, given).await;
        };
        if self.compute.state(&site).await? == ServerState::Down {
            let message = format!("branch {branch} is stopped");
            let hint = "start it with `zektor branch start`, then reinstall its extensions";
            let refusal = (RefusalCode::Invalid, message, hint);
            return self.refuse_order(instance, branch, given, refusal).await;
        }
        self.preload_what_is_there(&site, &finished).await?;
        let checks = match Box::pin(self.mend(&site, &finished)).await {
            Err(RestoreError::Server(PgError::Authentication { .. })) => {
                let message = format!("the superuser of branch {branch} has another password now");
                let hint = "give it the password of the branch's connection uri again";
                let refusal = (RefusalCode::Invalid, message, hint);
                return self.refuse_order(instance, branch, given, refusal).await;
            }
            mended => mended?,
        };
        let event = Event::BranchExtensionsReinstalled(BranchExtensionsReinstalled {
            instance: instance.clone(),
            branch: branch.clone(),
            extensions: checks,
            reinstalled_at: self.clock.now(),
        });
        self.say(event, given).await
    }

    async fn mend(
        &self,
        site: &Site,
        finished: &FinishedBranch,
    ) -> Result<Vec<ExtensionCheck>, RestoreError> {
        let context = dsn_context(&site.instance, &site.branch);
        let uri = self.key.open(&finished.register.dsn, &context)?;
        let door = Door::Open {
            site,
            uri: uri.expose_secret(),
            major: finished.major,
        };
        let database = ConnectionSettings::parse(uri.expose_secret())?;
        let mut connection = door.enter(database.dbname()).await?;
        let checks = extensions::check(&mut connection, &door, Depth::Mend).await;
        connection.close().await;
        checks
    }

    /// Preloads what the source preloads and could not be preloaded when the branch was made. A server that does not
    /// start with it is started as it was.
    async fn preload_what_is_there(
        &self,
        site: &Site,
        finished: &FinishedBranch,
    ) -> Result<(), RestoreError> {
        let programs = self.compute.programs(finished.major).await?;
        let path = site.config_file();
        let before = fs::read_to_string(&path).map_err(ComputeError::file("read", &path))?;
        let Some(after) = with_libraries(&before, wanted_libraries(site, &programs)) else {
            return Ok(());
        };
        self.compute.write(&path, after.as_bytes()).await?;
        self.compute.stop(site, Stopping::Fast).await?;
        let started = self.start_server(site, &programs, finished.port).await;
        if let Err(error) = started {
            tracing::warn!(
                instance = %site.instance, branch = %site.branch,
                error = &error as &dyn std::error::Error,
                "the branch does not start with the libraries that it lacked; it goes on without"
            );
            self.compute.write(&path, before.as_bytes()).await?;
            self.compute.stop(site, Stopping::Immediate).await?;
            self.start_server(site, &programs, finished.port).await?;
        }
        Ok(())
    }
}

/// What the source's own files say, which lie unread in the data directory, and this machine has.
fn wanted_libraries(site: &Site, programs: &Programs) -> Option<String> {
    let mut settings = BTreeMap::new();
    for file in ["postgresql.conf", "postgresql.auto.conf.source"] {
        let text = fs::read(site.data().join(file)).unwrap_or_default();
        settings.extend(carried::parse(&String::from_utf8_lossy(&text)));
    }
    let settings: Vec<(String, String)> = settings.into_iter().collect();
    let exists = |library: &str| carried::library_exists(&programs.bin, library);
    let (carried, _) = carried::select(&settings, exists);
    let found = carried.into_iter().find(|(name, _)| name == PRELOAD);
    found.map(|(_, libraries)| libraries)
}

/// The configuration with these libraries, unless it has them.
fn with_libraries(conf: &str, libraries: Option<String>) -> Option<String> {
    let libraries = libraries?;
    let settings = carried::parse(conf);
    let there = settings.iter().find(|(name, _)| name == PRELOAD);
    if there.is_some_and(|(_, there)| *there == libraries) {
        return None;
    }
    let rest = conf.lines().filter(|line| !line.starts_with(PRELOAD));
    let mut text: String = rest.map(|line| format!("{line}\n")).collect();
    text.push_str(&format!(
        "{PRELOAD} = '{}'\n",
        libraries.replace('\'', "''")
    ));
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::with_libraries;

    #[test]
    fn only_other_libraries_change_the_configuration() {
        let conf = "port = '1'\nshared_preload_libraries = 'auto_explain'\nx = '2'\n";
        let same = Some("auto_explain".to_owned());
        assert_eq!(with_libraries(conf, same), None);
        assert_eq!(with_libraries(conf, None), None);
        let more = Some("auto_explain,pg_stat_statements".to_owned());
        assert_eq!(
            with_libraries(conf, more).unwrap(),
            "port = '1'\nx = '2'\nshared_preload_libraries = 'auto_explain,pg_stat_statements'\n"
        );
    }
}
