//! Mirrored instance documents: what the scheduler wants, kept where it survives NATS.

use events::{InstanceDocument, InstanceName};

use crate::{Repository, Result, document, layout};

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

    /// Every mirrored document, by name.
    ///
    /// # Errors
    /// One is damaged, or the store failed.
    pub async fn instances(&self) -> Result<Vec<InstanceDocument>> {
        let mut instances = Vec::new();
        // Branches of an instance that is called "instances" rest deeper.
        for (key, _) in self.store.list(layout::INSTANCES).await? {
            let name = key
                .strip_prefix(layout::INSTANCES)
                .and_then(|name| name.strip_prefix('/'));
            let name = name.and_then(|name| name.strip_suffix(".json"));
            if let Some(name) = name.and_then(|name| InstanceName::new(name).ok()) {
                instances.push(self.instance(&name).await?);
            }
        }
        Ok(instances)
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
