//! A real S3 server (SeaweedFS) with one identity and one bucket.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use provision::Tool;
use tempfile::TempDir;

use crate::child::{Running, Signal};
use crate::http;
use crate::port::Port;
use crate::tools::tail;
use crate::{START_TIMEOUT, temporary_directory, tool};

/// The bucket that is there from the start.
pub const BUCKET: &str = "zektor-test";
/// The one access key.
pub const ACCESS_KEY: &str = "test-key";
/// Its secret.
pub const SECRET_KEY: &str = "test-secret-1234";

/// SeaweedFS is four servers in one, each with an HTTP and a gRPC port.
#[derive(Debug)]
struct Ports {
    master: [Port; 2],
    volume: [Port; 2],
    filer: [Port; 2],
    s3: [Port; 2],
}

/// A running S3 server; killed when it is dropped.
#[derive(Debug)]
pub struct S3Server {
    place: TempDir,
    ports: Ports,
    running: Option<Running>,
}

impl S3Server {
    /// Starts a server, waits until it stores an object, and makes [`BUCKET`].
    ///
    /// # Errors
    /// When it is not installed or does not start; the error has the end of its log.
    pub async fn start() -> Result<Self> {
        let place = temporary_directory()?;
        fs::create_dir(place.path().join("data"))?;
        fs::write(place.path().join("identities.json"), identities())?;
        let pair = || Ok::<_, anyhow::Error>([Port::reserve()?, Port::reserve()?]);
        let ports = Ports {
            master: pair()?,
            volume: pair()?,
            filer: pair()?,
            s3: pair()?,
        };
        let mut server = Self {
            place,
            ports,
            running: None,
        };
        server.start_again().await?;
        server.create_bucket(BUCKET).await?;
        Ok(server)
    }

    /// The repository URL of a bucket; the server itself is named by [`Self::env`].
    #[must_use]
    pub fn url(&self, bucket: &str) -> String {
        format!("s3://{bucket}")
    }

    /// The HTTP endpoint. It stays the same over restarts.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", address(&self.ports.s3))
    }

    /// The variables by which `object_store`'s `AmazonS3Builder::from_env` finds and uses the server.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT", self.endpoint().as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// Makes a bucket, through the server's own shell.
    ///
    /// # Errors
    /// When the server refuses the name or does not answer.
    pub async fn create_bucket(&self, name: &str) -> Result<()> {
        let [http, grpc] = &self.ports.master;
        let master = format!("-master=127.0.0.1:{}.{}", http.number(), grpc.number());
        let mut command = Command::new(program()?);
        let _ = command
            .args(["shell", &master])
            .current_dir(self.place.path());
        let _ = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let line = format!("s3.bucket.create -name {name}\n");
        let output = tokio::task::spawn_blocking(move || -> Result<_> {
            let mut child = command.spawn().context("cannot start `weed shell`")?;
            child
                .stdin
                .take()
                .context("no stdin")?
                .write_all(line.as_bytes())?;
            Ok(child.wait_with_output()?)
        })
        .await??;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || said.contains("error:") {
            bail!(
                "cannot create the bucket {name}: {said}\n{}",
                tail(&self.log_file())
            );
        }
        Ok(())
    }

    /// SIGKILL, and waits until the process is gone. The objects stay.
    ///
    /// # Errors
    /// When the process cannot be signalled or does not end.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take_if(Running::runs) {
            running.signal(Signal::Kill)?;
            let _ = running.ended(START_TIMEOUT).await?;
        }
        Ok(())
    }

    /// Starts it on the same ports and files; nothing happens when it runs.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub async fn start_again(&mut self) -> Result<()> {
        if self.running.as_mut().is_some_and(Running::runs) {
            return Ok(());
        }
        let mut running = Running::spawn("SeaweedFS", &mut self.command()?, &self.log_file())?;
        let (s3, filer) = (address(&self.ports.s3), address(&self.ports.filer));
        running
            .ready(START_TIMEOUT, async || {
                answers(&s3).await && stores(&filer).await
            })
            .await?;
        self.running = Some(running);
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(program()?);
        let _ = command.current_dir(self.place.path()).args([
            "-logtostderr=true",
            "server",
            "-dir=data",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.volumeSizeLimitMB=512",
            // It reports to its makers unless it is told not to.
            "-master.telemetry=false",
            // A lone master that trusts its old election state waits 15 s for peers it does not have;
            // which volumes there are it learns from the volume server.
            "-master.resumeState=false",
            "-volume.max=20",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.config=identities.json",
            "-s3.localSocket=s3.sock",
            "-filer.localSocket=filer.sock",
        ]);
        let Ports {
            master,
            volume,
            filer,
            s3,
        } = &self.ports;
        for (name, [http, grpc]) in [
            ("master", master),
            ("volume", volume),
            ("filer", filer),
            ("s3", s3),
        ] {
            let _ = command.arg(format!("-{name}.port={}", http.number()));
            let _ = command.arg(format!("-{name}.port.grpc={}", grpc.number()));
        }
        Ok(command)
    }

    fn log_file(&self) -> std::path::PathBuf {
        self.place.path().join("seaweedfs.log")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.running = None;
        // The one kind of file it does not put into its own directory.
        for (name, [_, grpc]) in [
            ("master", &self.ports.master),
            ("volume", &self.ports.volume),
            ("filer", &self.ports.filer),
            ("s3", &self.ports.s3),
        ] {
            let socket = format!("/tmp/seaweedfs-{name}-grpc-{}.sock", grpc.number());
            // Gone already after an orderly end.
            let _ = fs::remove_file(socket);
        }
    }
}

fn address([http, _grpc]: &[Port; 2]) -> String {
    format!("127.0.0.1:{}", http.number())
}

async fn answers(s3: &str) -> bool {
    http::get(s3, "/status")
        .await
        .is_ok_and(|answer| answer.status == 200)
}

/// The S3 side answers before the volumes are there; only a stored byte proves them.
async fn stores(filer: &str) -> bool {
    const PATH: &str = "/ready";
    let put = http::request("PUT", filer, PATH, "x").await;
    let stored = put.is_ok_and(|answer| answer.status == 201);
    stored && http::request("DELETE", filer, PATH, "").await.is_ok()
}

fn program() -> Result<std::path::PathBuf> {
    Ok(tool(Tool::SeaweedFs)?.program(Tool::SeaweedFs.program()))
}

fn identities() -> String {
    format!(
        r#"{{"identities":[{{"name":"test",
            "credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],
            "actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_has_the_bucket_refuses_strangers_and_keeps_its_files_over_a_kill() {
        let mut server = S3Server::start().await.unwrap();
        assert!(server.create_bucket("x").await.is_err(), "too short for S3");
        let (endpoint, s3) = (server.endpoint(), address(&server.ports.s3));
        let stranger = http::get(&s3, &format!("/{BUCKET}")).await.unwrap();
        assert_eq!(stranger.status, 403, "{stranger:?}");

        let filer = address(&server.ports.filer);
        let path = format!("/buckets/{BUCKET}/kept");
        let put = http::request("PUT", &filer, &path, "kept").await.unwrap();
        assert_eq!(put.status, 201, "{put:?}");
        server.kill().await.unwrap();
        assert!(http::get(&s3, "/status").await.is_err());
        server.start_again().await.unwrap();
        assert_eq!(server.endpoint(), endpoint);
        assert_eq!(http::get(&filer, &path).await.unwrap().body, "kept");
    }
}
