//! Mirrored instance documents: what the scheduler wants, kept where it survives NATS.

use events::{InstanceDocument, InstanceName};

use crate::{Repository, RepositoryError, Result, document, layout};

const FORMAT: &str = "zektor-instance";

impl Repository {
    /// Mirrors an instance document, over the last one.
    ///
    /// # Errors
    /// The store failed.
    pub async fn put_instance(&self, instance: &InstanceDocument) -> Result<()> {
        let key = layout::instance_document(&instance.instance);
        self.store
            .put(&key, document::encode(FORMAT, instance)?)
            .await
    }

    /// The mirrored document of an instance.
    ///
    /// # Errors
    /// There is none, it is damaged, or the store failed.
    pub async fn instance(&self, instance: &InstanceName) -> Result<InstanceDocument> {
        let key = layout::instance_document(instance);
        document::decode(FORMAT, &key, &self.store.get(&key).await?)
    }

    /// Every mirrored document that can be read, by name. One that is damaged or of another version is logged, and hides
    /// none of the others: an instance that is not in the list may be there all the same ([`Self::instance_names`]).
    ///
    /// # Errors
    /// The store failed.
    pub async fn instances(&self) -> Result<Vec<InstanceDocument>> {
        let mut instances = Vec::new();
        for name in self.instance_names().await? {
            match self.instance(&name).await {
                Ok(document) => instances.push(document),
                // It was removed since it was listed.
                Err(error) if error.is_absent() => {}
                Err(error @ (RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. })) => {
                    tracing::error!(
                        instance = %name,
                        error = &error as &dyn std::error::Error,
                        "the mirrored document of an instance cannot be read and is left out"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(instances)
    }

    /// The instances that have a mirrored document, whether or not it can be read.
    ///
    /// # Errors
    /// The store failed.
    pub async fn instance_names(&self) -> Result<Vec<InstanceName>> {
        let mut names = Vec::new();
        // Branches of an instance that is called "instances" rest deeper.
        for (key, _) in self.store.list(layout::INSTANCES).await? {
            let name = key
                .strip_prefix(layout::INSTANCES)
                .and_then(|name| name.strip_prefix('/'));
            let name = name.and_then(|name| name.strip_suffix(".json"));
            names.extend(name.and_then(|name| InstanceName::new(name).ok()));
        }
        Ok(names)
    }

    /// Forgets the mirrored document of an instance that was removed.
    ///
    /// # Errors
    /// The store failed.
    pub async fn delete_instance(&self, instance: &InstanceName) -> Result<()> {
        self.store
            .delete(&layout::instance_document(instance))
            .await
    }
}

#[cfg(test)]
mod tests {
    use events::{CommandId, InstanceDocument, Timestamp};
    use uuid::Uuid;

    use crate::{Repository, RetryPolicy};

    #[tokio::test]
    async fn a_mirror_that_is_damaged_hides_none_of_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("file://{}", directory.path().display());
        let repository = Repository::open(&url, RetryPolicy::default()).unwrap();
        for name in ["a", "b", "c"] {
            let document = InstanceDocument::new(
                name.parse().unwrap(),
                CommandId(Uuid::nil()),
                Timestamp::UNIX_EPOCH,
            );
            repository.put_instance(&document).await.unwrap();
        }
        std::fs::write(directory.path().join("v1/instances/a.json"), "{").unwrap();
        let read = repository.instances().await.unwrap();
        let read: Vec<_> = read.iter().map(|read| read.instance.to_string()).collect();
        assert_eq!(read, ["b", "c"]);
        assert_eq!(repository.instance_names().await.unwrap().len(), 3);
    }
}
