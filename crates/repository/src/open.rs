//! From a repository URL to an object store.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use url::Url;

use crate::store::durable::DurableDirectory;
use crate::{RepositoryError, Result, RetryPolicy};

/// What a URL names.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    /// The directory, when it is one.
    pub(crate) directory: Option<PathBuf>,
}

/// Opens what the URL names; credentials and endpoint come from the store's usual variables
/// (`AWS_*`, `GOOGLE_*`, `AZURE_*`), first from `variables`, then from the environment.
pub(crate) fn open(
    text: &str,
    retry: &RetryPolicy,
    variables: &[(String, String)],
) -> Result<Opened> {
    let url = Url::parse(text).map_err(|error| refuse(text, error))?;
    let bucket = url.host_str().unwrap_or_default();
    let prefix = Path::from_url_path(url.path()).map_err(|error| refuse(text, error))?;
    let timeout = format!("{} seconds", retry.call_timeout.as_secs().max(1));
    if matches!(url.scheme(), "s3" | "gs" | "az") && bucket.is_empty() {
        return Err(refuse(text, "the bucket is missing"));
    }
    // The HTTP client panics without one; a program that wants another has installed it by now.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "file" => {
            let directory = url
                .to_file_path()
                .map_err(|()| refuse(text, "it must be file:///directory"))?;
            let store = DurableDirectory::open(&directory).map_err(|error| refuse(text, error))?;
            return Ok(Opened {
                directory: Some(directory),
                store: Arc::new(store),
                prefix: Path::default(),
            });
        }
        "memory" => Arc::new(InMemory::new()),
        "s3" => {
            let builder = AmazonS3Builder::from_env();
            let builder = with_variables(builder, variables, AmazonS3Builder::with_config)
                .with_bucket_name(bucket)
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), timeout)
                .with_retry(transport_retry());
            Arc::new(builder.build().map_err(|error| refuse(text, error))?)
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env();
            let builder =
                with_variables(builder, variables, GoogleCloudStorageBuilder::with_config)
                    .with_bucket_name(bucket)
                    .with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), timeout)
                    .with_retry(transport_retry());
            Arc::new(builder.build().map_err(|error| refuse(text, error))?)
        }
        "az" => {
            let builder = MicrosoftAzureBuilder::from_env();
            let builder = with_variables(builder, variables, MicrosoftAzureBuilder::with_config)
                .with_container_name(bucket)
                .with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), timeout)
                .with_retry(transport_retry());
            Arc::new(builder.build().map_err(|error| refuse(text, error))?)
        }
        other => return Err(refuse(text, format!("{other}:// is not known"))),
    };
    Ok(Opened {
        store,
        prefix,
        directory: None,
    })
}

/// Sets every variable that the store knows; the others are for something else.
fn with_variables<B, K: FromStr>(
    builder: B,
    variables: &[(String, String)],
    set: impl Fn(B, K, String) -> B,
) -> B {
    variables.iter().fold(builder, |builder, (name, value)| {
        match name.to_ascii_lowercase().parse() {
            Ok(key) => set(builder, key, value.clone()),
            Err(_) => builder,
        }
    })
}

/// [`RetryPolicy`] is the one that counts; this one only spares it a dropped connection.
fn transport_retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 1,
        retry_timeout: Duration::from_secs(30),
    }
}

fn refuse(url: &str, reason: impl ToString) -> RepositoryError {
    // What stands before an @ may be a secret.
    let url = match url
        .split_once("://")
        .map(|(scheme, rest)| (scheme, rest.rsplit_once('@')))
    {
        Some((scheme, Some((_, rest)))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    };
    RepositoryError::Url {
        url,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::open;
    use crate::RetryPolicy;

    #[test]
    fn refuses_what_is_no_repository() {
        for url in [
            "",
            "repository",
            "/dir",
            "ftp://host/dir",
            "s3://",
            "file://host/dir",
        ] {
            let error = open(url, &RetryPolicy::default(), &[])
                .unwrap_err()
                .to_string();
            assert!(error.contains("s3://bucket/prefix"), "{error}");
        }
        let error = open("ftp://user:secret@host/dir", &RetryPolicy::default(), &[]).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
