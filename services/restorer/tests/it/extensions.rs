//! Extensions whose files are missing on the branch's server, and there again: a copied installation loses them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use events::RestoreTarget;
use events::command::ExtensionsReinstall;
use events::event::{Event, ExtensionCheck, ExtensionState};
use restorer::attempt::Ending;
use restorer::outcome::FinishedBranch;
use restorer::restorer::Restorer;
use testkit::postgres::PgVersion;

use crate::life::given;
use crate::world::{PATIENCE, World, instance};

/// A copy of the source's installation, to hide files in.
struct Installation(PathBuf);

impl Installation {
    fn copy(world: &World) -> Result<Self> {
        let program = world.source.bin("postgres")?;
        let original = program.ancestors().nth(2).context("no installation")?;
        let copy = world.place.path().join("installation");
        let status = std::process::Command::new("cp")
            .args(["-a", "--dereference"])
            .args([original, &copy])
            .status()?;
        anyhow::ensure!(status.success());
        Ok(Installation(copy))
    }

    fn hide(&self, file: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::rename(&path, hidden(&path)).with_context(|| path.display().to_string())
    }

    fn unhide(&self, file: &str) -> Result<()> {
        let path = self.0.join(file);
        Ok(fs::rename(hidden(&path), path)?)
    }
}

fn hidden(path: &Path) -> PathBuf {
    path.with_extension("hidden-by-the-test")
}

async fn reinstall(restorer: &Restorer, finished: &FinishedBranch) -> Result<Vec<ExtensionCheck>> {
    let order = ExtensionsReinstall {
        instance: instance(),
        branch: finished.register.branch.clone(),
    };
    restorer.reinstall_extensions(&order, &given()).await?;
    let said = restorer
        .bus
        .last_on("zektor.branch.extensions_reinstalled.>")
        .await?;
    match said.context("nothing was said")?.envelope.message {
        Event::BranchExtensionsReinstalled(done) => Ok(done.extensions),
        other => anyhow::bail!("{other:?}"),
    }
}

fn of<'a>(checks: &'a [ExtensionCheck], name: &str) -> (ExtensionState, &'a str, &'a str) {
    let found = checks
        .iter()
        .find(|check| check.name == name && check.database == "postgres");
    let check = found.expect("a check");
    let detail = check.detail.as_deref().unwrap_or_default();
    (check.state, &check.version, detail)
}

#[tokio::test]
async fn what_is_there_again_works_again_and_nothing_is_lost() -> Result<()> {
    use ExtensionState::{NeedsReinstalling, Present};
    const CONTROL: &str = "share/extension/hstore.control";
    const STATISTICS: &str = "lib/pg_stat_statements.so";

    let mut world = World::new(PgVersion::V18).await?;
    let preload = "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'";
    let _ = world.source.psql(preload).await?;
    world.source.restart().await?;
    let made = "CREATE EXTENSION hstore; CREATE TABLE pairs (h hstore); \
                INSERT INTO pairs VALUES ('a=>1'); CREATE INDEX ON pairs USING gin (h); \
                CREATE EXTENSION pg_trgm VERSION '1.3'; CREATE EXTENSION pg_stat_statements";
    let _ = world.source.psql(made).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let installation = Installation::copy(&world)?;
    for file in [
        CONTROL,
        "lib/hstore.so",
        STATISTICS,
        "share/extension/pg_trgm--1.3.sql",
    ] {
        installation.hide(file)?;
    }
    let restorer = world.another("poor", vec![installation.0.join("bin")])?;
    let request = world.request("b", RestoreTarget::Latest);
    world.publish(&request).await?;
    let progress = bus::Progress::default();
    let ending = Box::pin(restorer.handle(&request, &progress, true));
    assert_eq!(tokio::time::timeout(PATIENCE, ending).await?, Ending::Done);
    let site = restorer.compute.site(&instance(), &request.branch);
    let outcome = async {
        let finished = FinishedBranch::at(&site)?.context("no branch")?;
        let checks = &finished.summary.extensions;
        let (state, _, detail) = of(checks, "hstore");
        assert_eq!(state, NeedsReinstalling);
        assert!(detail.contains("hstore.control"), "{detail}");
        let (state, version, detail) = of(checks, "pg_trgm");
        assert_eq!((state, version), (NeedsReinstalling, "1.3"));
        assert!(detail.contains("1.6"), "{detail}");
        let (state, _, detail) = of(checks, "pg_stat_statements");
        assert_eq!(state, NeedsReinstalling);
        assert!(detail.contains("$libdir/pg_stat_statements"), "{detail}");

        // Still missing: told again. What can be mended is mended.
        let checks = reinstall(&restorer, &finished).await?;
        assert_eq!(of(&checks, "hstore").0, NeedsReinstalling);
        assert_eq!(
            of(&checks, "pg_trgm"),
            (Present, "1.6", "updated from version 1.3")
        );
        // Half of it is back: the library is named.
        installation.unhide(CONTROL)?;
        let checks = reinstall(&restorer, &finished).await?;
        let (state, _, detail) = of(&checks, "hstore");
        assert_eq!(state, NeedsReinstalling);
        assert!(detail.contains("$libdir/hstore"), "{detail}");

        installation.unhide("lib/hstore.so")?;
        installation.unhide(STATISTICS)?;
        let checks = reinstall(&restorer, &finished).await?;
        assert!(
            checks.iter().all(|check| check.state == Present),
            "{checks:?}"
        );
        let value = world.ask(&finished, "SELECT h -> 'a' FROM pairs").await?;
        assert_eq!(value, "1");
        let preloaded = world
            .ask(&finished, "SHOW shared_preload_libraries")
            .await?;
        assert_eq!(preloaded, "pg_stat_statements");
        let seen = "SELECT count(*) > 0 FROM pg_stat_statements";
        assert_eq!(world.ask(&finished, seen).await?, "t");

        // A branch that is stopped cannot be asked, and says so.
        let stop = events::command::BranchStop {
            instance: instance(),
            branch: request.branch.clone(),
        };
        restorer.stop(&stop, &given()).await?;
        let before = reinstall(&restorer, &finished).await?;
        assert_eq!(before, checks, "nothing new is said");
        let refused = restorer.bus.last_on("zektor.branch.refused.>").await?;
        assert!(refused.is_some());
        anyhow::Ok(())
    };
    let outcome = Box::pin(outcome).await;
    restorer.compute.remove(&site).await?;
    outcome
}
