//! The demo's own PostgreSQL, with an application that places an order every few milliseconds.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use provision::{Account, Found, UNPRIVILEGED_USER, account, is_root};

use super::stage::Stage;

/// Runs for the whole demo; obeys the switch in the table `application`.
const APPLICATION: &str = "\
DO $$
BEGIN
  LOOP
    IF (SELECT running FROM application) THEN
      INSERT INTO orders (customer, total) VALUES (random() * 996, random() * 900);
    END IF;
    COMMIT;
    PERFORM pg_sleep(0.005);
  END LOOP;
END $$;";

/// A running cluster.
pub(super) struct Cluster<'a> {
    found: Found,
    account: Option<Account>,
    directory: PathBuf,
    port: u16,
    password: String,
    stage: &'a Stage,
}

impl<'a> Cluster<'a> {
    /// Makes and starts it.
    pub(super) fn start(found: &Found, stage: &'a Stage) -> Result<Self> {
        let directory = stage.directory().join("shop");
        std::fs::create_dir(&directory)?;
        let account = if is_root() {
            Some(account(UNPRIVILEGED_USER).context("there is no user postgres")?)
        } else {
            None
        };
        if let Some(account) = account {
            chown(&directory, Some(account.uid), Some(account.gid))?;
        }
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let password = format!("demo-{}", std::process::id());
        let cluster = Cluster {
            found: found.clone(),
            account,
            directory,
            port,
            password,
            stage,
        };
        cluster.initialise()?;
        Ok(cluster)
    }

    fn initialise(&self) -> Result<()> {
        let password_file = self.directory.join("password");
        std::fs::write(&password_file, &self.password)?;
        std::fs::set_permissions(&password_file, std::fs::Permissions::from_mode(0o644))?;
        let data = self.directory.join("data");
        let mut initdb = self.program("initdb");
        let _ = initdb.args([
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        let _ = initdb
            .arg("--pwfile")
            .arg(&password_file)
            .arg("-D")
            .arg(&data);
        let _ = run(&mut initdb)?;
        let mut options = format!("-p {} -c listen_addresses=127.0.0.1", self.port);
        options.push_str(&format!(
            " -c unix_socket_directories={}",
            self.directory.display()
        ));
        let log = self.directory.join("server.log");
        let mut start = self.pg_ctl(&data);
        let _ = start
            .args(["-w", "-o", &options, "-l"])
            .arg(log)
            .arg("start");
        let _ = run(&mut start)?;
        let mut stop = self.pg_ctl(&data);
        let _ = stop.args(["-m", "fast", "-w", "stop"]);
        self.stage.ends_with(stop);
        Ok(())
    }

    fn pg_ctl(&self, data: &Path) -> Command {
        let mut command = self.program("pg_ctl");
        let _ = command.arg("-D").arg(data);
        command
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.found.program(name));
        if let Some(account) = self.account {
            let _ = command.uid(account.uid).gid(account.gid);
        }
        let _ = command.current_dir("/");
        command
    }

    pub(super) fn uri(&self) -> String {
        format!(
            "postgres://postgres:{}@127.0.0.1:{}/postgres",
            self.password, self.port
        )
    }

    pub(super) fn version(&self) -> Result<String> {
        Ok(format!("PostgreSQL {}", self.sql("SHOW server_version")?))
    }

    pub(super) fn sql(&self, sql: &str) -> Result<String> {
        self.sql_at(&self.uri(), sql)
    }

    /// Runs SQL with `psql` wherever `uri` leads.
    pub(super) fn sql_at(&self, uri: &str, sql: &str) -> Result<String> {
        let mut psql = self.program("psql");
        let _ = psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", uri, "-c", sql]);
        run(&mut psql)
    }

    pub(super) fn write_in_the_background(&self) -> Result<()> {
        let _ = self.sql(
            "CREATE TABLE application (running boolean NOT NULL); INSERT INTO application VALUES (true)",
        )?;
        let mut psql = self.program("psql");
        let _ = psql
            .args(["-Xq", "-d", &self.uri(), "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = psql.spawn().context("psql cannot be started")?;
        child
            .stdin
            .take()
            .context("psql has no stdin")?
            .write_all(APPLICATION.as_bytes())?;
        self.stage.owns(child);
        Ok(())
    }

    /// No order is placed any more once this returns.
    pub(super) fn pause_writing(&self) -> Result<()> {
        let _ = self.sql("UPDATE application SET running = false")?;
        let mut last = self.placed()?;
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.placed()?;
            if now == last {
                return Ok(());
            }
            last = now;
        }
    }

    pub(super) fn resume_writing(&self) -> Result<()> {
        let _ = self.sql("UPDATE application SET running = true")?;
        Ok(())
    }

    /// Waits until so many more orders were placed; how many there were in all.
    pub(super) fn wait_for_orders(&self, more: u64) -> Result<u64> {
        let wanted = self.placed()? + more;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let placed = self.placed()?;
            if placed >= wanted {
                return Ok(placed);
            }
            ensure!(
                Instant::now() < deadline,
                "the application does not place orders"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Orders ever placed, the deleted ones too.
    pub(super) fn placed(&self) -> Result<u64> {
        Ok(self.sql("SELECT last_value FROM orders_id_seq")?.parse()?)
    }
}

fn run(command: &mut Command) -> Result<String> {
    // A server must not inherit our pipes, or waiting for them would never end.
    let output = if command.get_args().any(|argument| argument == "start") {
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map(|status| (status, Vec::new(), Vec::new()))
    } else {
        command
            .output()
            .map(|output| (output.status, output.stdout, output.stderr))
    };
    let (status, stdout, stderr) = output.with_context(|| format!("{command:?} cannot be run"))?;
    if !status.success() {
        bail!(
            "{command:?} failed: {}",
            String::from_utf8_lossy(&stderr).trim()
        );
    }
    Ok(String::from_utf8(stdout)?.trim().to_owned())
}
